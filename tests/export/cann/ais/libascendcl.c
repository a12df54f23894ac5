/* A stand-in for CANN's library as far as a chip says its name; built with -DCHIP='"Ascend310P3"'. */
const char *aclrtGetSocName(void) { return CHIP; }
