// The gradient of a convolution's weights in float32, for processors with AVX2 and without AVX-512: see weight_gradient.py.
//
// Images are channels last: rows of channels, a row a pixel. oneDNN's gradient of weights runs at half the speed of its
// convolution on such processors; with AVX-512 it is as fast as this.

#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    STRIP = 256,  // pixels of the output, about, that are summed in registers. As many pixels of 16 channels stay in the
                  // first cache, and of all outputs in a second one of 512 kB, as both are copied close together: where
                  // they lie, pixels that are a power of two apart push each other out.
    LANES = 16,   // channels that are summed at once, in two registers
};

typedef float lanes __attribute__((vector_size(32), aligned(4)));

// How many of `left` outputs are summed at once. Six of them and 16 channels take twelve registers; of fewer than eight
// the next sum would wait for the last.
static long group_size(long left) { return left >= 6 && left != 8 ? 6 : left >= 4 ? 4 : left >= 2 ? 2 : 1; }

// Compiles `function` once for each size of a group.
#define BY_SIZE(function, group, ...)             \
    switch (group) {                              \
        case 6: function(6, __VA_ARGS__); break;  \
        case 4: function(4, __VA_ARGS__); break;  \
        case 2: function(2, __VA_ARGS__); break;  \
        default: function(1, __VA_ARGS__);        \
    }

static inline __attribute__((always_inline)) void copy_group(const int group, const float *g, long g_pitch, long pixels,
                                                             float *copy) {
    for (long pixel = 0; pixel < pixels; pixel++)
        memcpy(copy + pixel * group, g + pixel * g_pitch, (size_t)group * sizeof *g);
}

// Copies g so that the groups of outputs follow one another, in each group the pixels, in each pixel its outputs.
static void copy_gradient(const float *g, long pixels, long outputs, float *copy) {
    enum { FEW = 16 };  // pixels whose outputs the first cache holds, whatever the pitch
    for (long pixel = 0; pixel < pixels; pixel += FEW)
        for (long output = 0, group; output < outputs; output += group) {
            group = group_size(outputs - output);
            long few = pixels - pixel < FEW ? pixels - pixel : FEW;
            BY_SIZE(copy_group, group, g + pixel * outputs + output, outputs, few, copy + output * pixels + pixel * group)
        }
}

// Adds to the gradient d of `group` x 16 weights what `pixels` pixels of x contribute; the n-th of them belongs to pixel
// `place[n]` of g.
static inline __attribute__((always_inline)) void sum_group(const int group, const float *x, const float *g,
                                                            const int32_t *place, long pixels, float *d, long d_pitch) {
    lanes sums[group][2];
    for (int r = 0; r < group; r++) sums[r][0] = sums[r][1] = (lanes){0};
    for (long pixel = 0; pixel < pixels; pixel++) {
        const float *channel = x + pixel * LANES, *gradient = g + place[pixel] * group;
        lanes low = *(const lanes *)channel, high = *(const lanes *)(channel + 8);
#pragma GCC unroll 6
        for (int r = 0; r < group; r++) sums[r][0] += low * gradient[r], sums[r][1] += high * gradient[r];
    }
    for (int r = 0; r < group; r++) {
        *(lanes *)(d + r * d_pitch) += sums[r][0];
        *(lanes *)(d + r * d_pitch + 8) += sums[r][1];
    }
}

// The gradient d (outputs, kernel rows, kernel columns, channels) of a convolution's weights; `channels` is a multiple
// of 16. A thread has some taps and channels to itself, so that the sums do not depend on how many threads there are.
void weight_gradient(const float *x, const float *g, float *d, long images, long height, long width, long channels,
                     long g_height, long g_width, long outputs, long kernel_height, long kernel_width, long stride,
                     long pad_height, long pad_width) {
    long taps = kernel_height * kernel_width, items = taps * channels / LANES, d_pitch = taps * channels;
    long rows = images * g_height, strip = (STRIP + g_width / 2) / g_width;
    strip = strip < 1 ? 1 : strip;
    memset(d, 0, (size_t)(outputs * d_pitch) * sizeof *d);
#pragma omp parallel
    {
        long threads = omp_get_num_threads(), thread = omp_get_thread_num(), most = strip * g_width;
        long first = items * thread / threads, last = items * (thread + 1) / threads;
        float *gradients = malloc((size_t)(most * outputs) * sizeof *gradients);
        float *pixels = aligned_alloc(64, (size_t)(most * LANES) * sizeof *pixels);
        int32_t *place = malloc((size_t)most * sizeof *place);
        for (long top = first < last ? 0 : rows; top < rows; top += strip) {
            long bottom = top + strip < rows ? top + strip : rows, size = (bottom - top) * g_width;
            copy_gradient(g + top * g_width * outputs, size, outputs, gradients);
            for (long item = first; item < last; item++) {
                long tap = item % taps, channel = item / taps * LANES, count = 0;
                long down = tap / kernel_width - pad_height, right = tap % kernel_width - pad_width;
                // The outputs whose input at this tap lies in the image.
                long from = 0, to = g_width;
                while (from < to && from * stride + right < 0) from++;
                while (to > from && (to - 1) * stride + right >= width) to--;
                for (long row = top; row < bottom; row++) {
                    long y = row % g_height * stride + down;
                    if (y < 0 || y >= height) continue;
                    const float *line = x + (row / g_height * height + y) * width * channels + channel;
                    for (long column = from; column < to; column++, count++) {
                        memcpy(pixels + count * LANES, line + (column * stride + right) * channels, LANES * sizeof *x);
                        place[count] = (int32_t)((row - top) * g_width + column);
                    }
                }
                float *sums = d + tap * channels + channel;
                for (long output = 0, group; output < outputs; output += group) {
                    group = group_size(outputs - output);
                    const float *gradient = gradients + output * size;
                    BY_SIZE(sum_group, group, pixels, gradient, place, count, sums + output * d_pitch, d_pitch)
                }
            }
        }
        free(gradients), free(pixels), free(place);
    }
}
