/* Pixels of a region, resized and mirrored.
 *
 * Bilinear with a support that grows with the reduction, cut off at the region's borders, as
 * Pillow and torch (antialias=True) have it.  Vertically first, from 8 bits to 15, then
 * horizontally back to 8, with weights of 14 bits: less rounding than an 8-bit middle.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE4_1__
#include <smmintrin.h>
#endif

#include "native.h"

typedef struct {
    int32_t *first, *count; /* of each output: its first input, and how many */
    int16_t *weights;       /* [outputs, most], 14 bits, the rest zero */
    int most;
} Taps;

static int make_taps(Taps *taps, int inputs, int outputs) {
    double scale = (double)inputs / outputs, support = scale < 1 ? 1 : scale;
    taps->most = ((int)ceil(support) * 2 + 1 + 1) & ~1;
    taps->first = malloc(sizeof(int32_t) * 2 * (size_t)outputs);
    taps->weights = calloc((size_t)outputs * (size_t)taps->most, sizeof(int16_t));
    double *exact = malloc(sizeof(double) * (size_t)taps->most);
    if (!taps->first || !taps->weights || !exact) {
        free(exact);
        return 0;
    }
    taps->count = taps->first + outputs;
    for (int out = 0; out < outputs; out++) {
        double centre = (out + 0.5) * scale, sum = 0;
        int low = (int)(centre - support + 0.5), high = (int)(centre + support + 0.5);
        low = low < 0 ? 0 : low;
        high = high > inputs ? inputs : high;
        for (int at = low; at < high; at++) {
            double far = fabs((at - centre + 0.5) / support);
            sum += exact[at - low] = far < 1 ? 1 - far : 0;
        }
        int left = 1 << 14, widest = 0;
        int16_t *weights = taps->weights + (size_t)out * (size_t)taps->most;
        for (int at = 0; at < high - low; at++) {
            weights[at] = (int16_t)lrint(exact[at] / sum * (1 << 14));
            left -= weights[at];
            if (weights[at] > weights[widest]) widest = at;
        }
        weights[widest] += (int16_t)left; /* so that an even area keeps its value */
        taps->first[out] = low;
        taps->count[out] = high - low;
    }
    free(exact);
    return 1;
}

static void free_taps(Taps *taps) {
    free(taps->first);
    free(taps->weights);
}

/* One row of 15-bit values from some rows of 8-bit ones. */
static void blend_rows(const unsigned char *rows, size_t stride, const int16_t *weights, int count,
                       int32_t *restrict sums, int16_t *restrict out, int num_values) {
    for (int i = 0; i < num_values; i++) sums[i] = 64 + weights[0] * rows[i];
    for (int tap = 1; tap < count; tap++) {
        const unsigned char *row = rows + stride * (size_t)tap;
        int32_t weight = weights[tap];
        for (int i = 0; i < num_values; i++) sums[i] += weight * row[i];
    }
    for (int i = 0; i < num_values; i++) out[i] = (int16_t)(sums[i] >> 7);
}

/* Three-channel pixels of 15 bits, side by side, to `outputs` pixels of 8 bits. */
static void blend_columns(const int16_t *row, const Taps *taps, int outputs, int mirrored,
                          unsigned char *out) {
    for (int at = 0; at < outputs; at++) {
        const int16_t *pixel = row + 3 * (size_t)taps->first[at];
        const int16_t *weights = taps->weights + (size_t)at * (size_t)taps->most;
        unsigned char *target = out + 3 * (mirrored ? outputs - 1 - at : at);
#ifdef __SSE4_1__
        /* Two pixels at a time: (r0 r1)(g0 g1)(b0 b1) times (w0 w1), added in pairs. */
        const __m128i pairs = _mm_setr_epi8(0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11, -1, -1, -1, -1);
        __m128i sum = _mm_set1_epi32(1 << 20);
        for (int tap = 0; tap < taps->count[at]; tap += 2) {
            __m128i two = _mm_loadu_si128((const __m128i *)(pixel + 3 * tap));
            int32_t both;
            memcpy(&both, weights + tap, sizeof both);
            sum = _mm_add_epi32(
                sum, _mm_madd_epi16(_mm_shuffle_epi8(two, pairs), _mm_set1_epi32(both)));
        }
        sum = _mm_srai_epi32(sum, 21);
        sum = _mm_packus_epi16(_mm_packs_epi32(sum, sum), sum);
        int32_t bytes = _mm_cvtsi128_si32(sum);
        memcpy(target, &bytes, 3);
#else
        int32_t sums[3] = {0, 0, 0};
        for (int tap = 0; tap < taps->count[at]; tap++)
            for (int c = 0; c < 3; c++) sums[c] += weights[tap] * pixel[3 * tap + c];
        for (int c = 0; c < 3; c++) {
            int32_t value = (sums[c] + (1 << 20)) >> 21;
            target[c] = (unsigned char)(value < 0 ? 0 : value > 255 ? 255 : value);
        }
#endif
    }
}

int resize(Scratch *scratch, const unsigned char *pixels, size_t stride, int height,
                  int width, unsigned char *out, int out_height, int out_width, int mirrored) {
    Taps down, across;
    int num_values = 3 * width;
    memset(&down, 0, sizeof down);
    memset(&across, 0, sizeof across);
    int ok = make_taps(&down, height, out_height) && make_taps(&across, width, out_width) &&
             /* eight values more: the last load of two pixels reads beyond them */
             grown((void **)&scratch->rows, &scratch->row_bytes, 2 * (size_t)(num_values + 16)) &&
             grown((void **)&scratch->sums, &scratch->sum_bytes, 4 * (size_t)num_values);
    for (int row = 0; ok && row < out_height; row++) {
        memset(scratch->rows + num_values, 0, 32);
        blend_rows(pixels + stride * (size_t)down.first[row], stride,
                   down.weights + (size_t)row * (size_t)down.most, down.count[row], scratch->sums,
                   scratch->rows, num_values);
        blend_columns(scratch->rows, &across, out_width, mirrored,
                      out + 3 * (size_t)out_width * (size_t)row);
    }
    free_taps(&down);
    free_taps(&across);
    return ok;
}

int iopipe_resize(void *scratch, const unsigned char *pixels, size_t stride, int height, int width,
                  unsigned char *out, int out_height, int out_width, int mirrored) {
    return resize(scratch, pixels, stride, height, width, out, out_height, out_width, mirrored);
}
