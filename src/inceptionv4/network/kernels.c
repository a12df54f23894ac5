// What a training step does between its convolutions, each in one pass over memory: see kernels.py.
//
// Images are rows of `channels` elements, a row a pixel (channels last). Rows lie `pitch` elements apart, so that a
// slice of the channels of a wider array can be read and written in place. Compiled once for each ELEMENT.

#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if ELEMENT == 16  // bfloat16: the upper half of a float
typedef uint16_t element;
typedef float real;
static inline real get(element value) {
    uint32_t bits = (uint32_t)value << 16;
    real result;
    memcpy(&result, &bits, sizeof result);
    return result;
}
static inline element put(real value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to even
    return (element)(value == value ? rounded : 0x7fc0);
}
#else
#if ELEMENT == 32
typedef float element;
#else
typedef double element;
#endif
typedef element real;
static inline real get(element value) { return value; }
static inline element put(real value) { return value; }
#endif

// Sums run over this many elements in `real`, which stay in the first cache, and over blocks of them in double.
enum { BLOCK = 4096 };

static long block_rows(long channels) { return channels < BLOCK / 8 ? BLOCK / channels : 8; }

// Mean and biased variance of each channel. Blocks are centred on their own mean (Chan et al., 1979), so that nothing
// cancels however far the mean is from zero.
void moments(const element *x, long pitch, long rows, long channels, real *mean, real *variance) {
    long step = block_rows(channels), blocks = (rows + step - 1) / step;
    int threads = omp_get_max_threads();
    double *partial = calloc((size_t)threads * (2 * channels + 1), sizeof *partial);
#pragma omp parallel num_threads(threads)
    {
        double *means = partial + (size_t)omp_get_thread_num() * (2 * channels + 1);
        double *squares = means + channels, *seen = squares + channels;
        real sum[channels], square[channels];
#pragma omp for schedule(static)
        for (long block = 0; block < blocks; block++) {
            long start = block * step, end = start + step < rows ? start + step : rows, count = end - start;
            for (long c = 0; c < channels; c++) sum[c] = square[c] = 0;
            for (long row = start; row < end; row++)
                for (long c = 0; c < channels; c++) sum[c] += get(x[row * pitch + c]);
            for (long c = 0; c < channels; c++) sum[c] /= (real)count;
            for (long row = start; row < end; row++)
                for (long c = 0; c < channels; c++) {
                    real distance = get(x[row * pitch + c]) - sum[c];
                    square[c] += distance * distance;
                }
            double before = *seen, total = before + (double)count;
            for (long c = 0; c < channels; c++) {
                double distance = (double)sum[c] - means[c];
                means[c] += distance * (double)count / total;
                squares[c] += (double)square[c] + distance * distance * before * (double)count / total;
            }
            *seen = total;
        }
    }
    double *first = partial, seen = first[2 * channels];
    for (int thread = 1; thread < threads; thread++) {
        double *other = partial + (size_t)thread * (2 * channels + 1), count = other[2 * channels];
        if (count == 0) continue;
        for (long c = 0; c < channels; c++) {
            double distance = other[c] - first[c];
            first[c] += distance * count / (seen + count);
            first[channels + c] += other[channels + c] + distance * distance * seen * count / (seen + count);
        }
        seen += count;
    }
    for (long c = 0; c < channels; c++) {
        mean[c] = (real)first[c];
        variance[c] = (real)(first[channels + c] / seen);
    }
    free(partial);
}

// y = relu(scale x + shift); NaN stays NaN.
void rectify(const element *x, long x_pitch, element *y, long y_pitch, long rows, long channels, const real *scale,
             const real *shift) {
#pragma omp parallel for schedule(static)
    for (long row = 0; row < rows; row++)
#pragma GCC ivdep
        for (long c = 0; c < channels; c++) {
            real value = get(x[row * x_pitch + c]) * scale[c] + shift[c];
            y[row * y_pitch + c] = put(value < 0 ? 0 : value);
        }
}

// Sums over rows of the gradient g behind the ReLU, and of g (x - mean).
void gradient_sums(const element *x, long x_pitch, const element *g, long g_pitch, long rows, long channels,
                   const real *scale, const real *shift, const real *mean, real *sums, real *products) {
    long step = block_rows(channels), blocks = (rows + step - 1) / step;
    int threads = omp_get_max_threads();
    double *partial = calloc((size_t)threads * 2 * channels, sizeof *partial);
#pragma omp parallel num_threads(threads)
    {
        double *sum = partial + (size_t)omp_get_thread_num() * 2 * channels, *product = sum + channels;
        real s[channels], p[channels];
#pragma omp for schedule(static)
        for (long block = 0; block < blocks; block++) {
            long start = block * step, end = start + step < rows ? start + step : rows;
            for (long c = 0; c < channels; c++) s[c] = p[c] = 0;
            for (long row = start; row < end; row++)
                for (long c = 0; c < channels; c++) {
                    real value = get(x[row * x_pitch + c]), gradient = get(g[row * g_pitch + c]);
                    gradient = value * scale[c] + shift[c] <= 0 ? 0 : gradient;
                    s[c] += gradient;
                    p[c] += gradient * (value - mean[c]);
                }
            for (long c = 0; c < channels; c++) sum[c] += s[c], product[c] += p[c];
        }
    }
    for (long c = 0; c < channels; c++) {
        double sum = 0, product = 0;
        for (int thread = 0; thread < threads; thread++) {
            sum += partial[(size_t)thread * 2 * channels + c];
            product += partial[(size_t)thread * 2 * channels + channels + c];
        }
        sums[c] = (real)sum, products[c] = (real)product;
    }
    free(partial);
}

// d = scale (g - offset - (x - mean) slope), with g behind the ReLU: the gradient before the norm. d may be x or g.
void gradient(const element *x, long x_pitch, const element *g, long g_pitch, element *d, long d_pitch, long rows,
              long channels, const real *scale, const real *shift, const real *mean, const real *offset,
              const real *slope) {
#pragma omp parallel for schedule(static)
    for (long row = 0; row < rows; row++)
#pragma GCC ivdep
        for (long c = 0; c < channels; c++) {
            real value = get(x[row * x_pitch + c]), gradient = get(g[row * g_pitch + c]);
            gradient = value * scale[c] + shift[c] <= 0 ? 0 : gradient;
            d[row * d_pitch + c] = put(scale[c] * (gradient - offset[c] - (value - mean[c]) * slope[c]));
        }
}

// 3 x 3, stride 2, no padding. Of equal values the first counts, and a NaN wins, as in torch.
void max_pool(const element *x, long x_pitch, element *y, long y_pitch, long images, long height, long width,
              long channels) {
    long rows = (height - 3) / 2 + 1, columns = (width - 3) / 2 + 1;
#pragma omp parallel for schedule(static)
    for (long place = 0; place < images * rows; place++) {
        const element *top = x + (place / rows * height + place % rows * 2) * width * x_pitch;
        for (long column = 0; column < columns; column++) {
            real best[channels];
            for (long c = 0; c < channels; c++) best[c] = get(top[column * 2 * x_pitch + c]);
            for (int tap = 1; tap < 9; tap++) {
                const element *pixel = top + (tap / 3 * width + column * 2 + tap % 3) * x_pitch;
                for (long c = 0; c < channels; c++) {
                    real value = get(pixel[c]);
                    best[c] = value > best[c] || value != value ? value : best[c];
                }
            }
            for (long c = 0; c < channels; c++) y[(place * columns + column) * y_pitch + c] = put(best[c]);
        }
    }
}

// Adds to d what the gradient g of `max_pool` is for its input x.
void max_pool_gradient(const element *x, long x_pitch, const element *g, long g_pitch, element *d, long d_pitch,
                       long images, long height, long width, long channels) {
    long rows = (height - 3) / 2 + 1, columns = (width - 3) / 2 + 1;
#pragma omp parallel for schedule(static)  // windows of an image overlap
    for (long image = 0; image < images; image++)
        for (long window = 0; window < rows * columns; window++) {
            long corner = (image * height + window / columns * 2) * width + window % columns * 2;
            const element *gradient = g + (image * rows * columns + window) * g_pitch;
            real best[channels];
            int32_t winner[channels];
            for (long c = 0; c < channels; c++) best[c] = get(x[corner * x_pitch + c]), winner[c] = 0;
            for (int tap = 1; tap < 9; tap++) {
                const element *pixel = x + (corner + tap / 3 * width + tap % 3) * x_pitch;
                for (long c = 0; c < channels; c++) {
                    real value = get(pixel[c]);
                    int wins = value > best[c] || value != value;
                    best[c] = wins ? value : best[c];
                    winner[c] = wins ? tap : winner[c];
                }
            }
            for (int tap = 0; tap < 9; tap++) {
                element *pixel = d + (corner + tap / 3 * width + tap % 3) * d_pitch;
                for (long c = 0; c < channels; c++)
                    pixel[c] = put(get(pixel[c]) + (winner[c] == tap ? get(gradient[c]) : 0));
            }
        }
}

// 3 x 3, stride 1, padding 1, the mean of what lies inside. Backwards the weights are those of the other end.
void average_pool(const element *x, long x_pitch, element *y, long y_pitch, long images, long height, long width,
                  long channels, int backwards) {
#pragma omp parallel for schedule(static)
    for (long place = 0; place < images * height; place++) {
        long row = place % height;
        for (long column = 0; column < width; column++) {
            real sum[channels];
            for (long c = 0; c < channels; c++) sum[c] = 0;
#define INSIDE(position, length) (1 + ((position) > 0) + ((position) < (length) - 1))
            real own = (real)1 / (real)(INSIDE(row, height) * INSIDE(column, width));
            for (long down = -(row > 0); down <= (row < height - 1); down++)
                for (long right = -(column > 0); right <= (column < width - 1); right++) {
                    const element *pixel = x + ((place + down) * width + column + right) * x_pitch;
                    real count = (real)(INSIDE(row + down, height) * INSIDE(column + right, width));
                    real share = backwards ? 1 / count : own;
                    for (long c = 0; c < channels; c++) sum[c] += share * get(pixel[c]);
                }
            for (long c = 0; c < channels; c++) y[(place * width + column) * y_pitch + c] = put(sum[c]);
        }
    }
}

// oneDNN's gradient of weights for channels last runs at half the speed of its convolution where there is AVX2 and no
// AVX-512. What it does elsewhere was not measured, and is left to it.
#if ELEMENT == 32 && defined __AVX2__ && !defined __AVX512F__
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
static void copy_gradient(const float *g, long g_pitch, long pixels, long outputs, float *copy) {
    enum { FEW = 16 };  // pixels whose outputs the first cache holds, whatever the pitch
    for (long pixel = 0; pixel < pixels; pixel += FEW)
        for (long output = 0, group; output < outputs; output += group) {
            group = group_size(outputs - output);
            long few = pixels - pixel < FEW ? pixels - pixel : FEW;
            BY_SIZE(copy_group, group, g + pixel * g_pitch + output, g_pitch, few, copy + output * pixels + pixel * group)
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
void weight_gradient(const float *x, long x_pitch, const float *g, long g_pitch, float *d, long images, long height,
                     long width, long channels, long g_height, long g_width, long outputs, long kernel_height,
                     long kernel_width, long stride, long pad_height, long pad_width) {
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
            copy_gradient(g + top * g_width * g_pitch, g_pitch, size, outputs, gradients);
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
                    const float *line = x + (row / g_height * height + y) * width * x_pitch + channel;
                    for (long column = from; column < to; column++, count++) {
                        memcpy(pixels + count * LANES, line + (column * stride + right) * x_pitch, LANES * sizeof *x);
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
#endif
