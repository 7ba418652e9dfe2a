/* Pixels of a region, resized and mirrored.
 *
 * Bilinear with a support that grows with the reduction, cut off at the region's borders, as
 * Pillow and torch (antialias=True) have it.  Vertically first, from 8 bits to 15, then
 * horizontally back to 8, with weights of 14 bits: less rounding than an 8-bit middle.
 *
 * The loops for AVX2 and those for any processor add up the same integers.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "native.h"

typedef struct {
    int32_t *first, *count; /* of each output: its first input, and how many */
    int16_t *weights;       /* [outputs, most], 14 bits, the rest zero */
    int most;               /* an even number */
} Taps;

/* Output number `at`; `exact` is memory for as many weights as it has. */
static void weigh(Taps *taps, int at, double *exact, double centre, double support, int inputs) {
    double sum = 0;
    int low = (int)(centre - support + 0.5), high = (int)(centre + support + 0.5);
    low = low < 0 ? 0 : low;
    high = high > inputs ? inputs : high;
    for (int from = low; from < high; from++) {
        double far = fabs((from - centre + 0.5) / support);
        sum += exact[from - low] = far < 1 ? 1 - far : 0;
    }
    int left = 1 << 14, widest = 0;
    int16_t *weights = taps->weights + (size_t)at * (size_t)taps->most;
    for (int tap = 0; tap < high - low; tap++) {
        weights[tap] = (int16_t)lrint(exact[tap] / sum * (1 << 14));
        left -= weights[tap];
        if (weights[tap] > weights[widest]) widest = tap;
    }
    weights[widest] += (int16_t)left; /* so that an even area keeps its value */
    taps->first[at] = low;
    taps->count[at] = high - low;
}

static int make_taps(Taps *taps, int inputs, int outputs, int mirrored) {
    double scale = (double)inputs / outputs, support = scale < 1 ? 1 : scale;
    size_t num_pairs = ((size_t)outputs + 1) / 2; /* they are computed in pairs */
    taps->most = ((int)ceil(support) * 2 + 1 + 1) & ~1;
    taps->first = calloc(4 * num_pairs, sizeof(int32_t));
    taps->weights = calloc(2 * num_pairs * (size_t)taps->most, sizeof(int16_t));
    double *exact = malloc(sizeof(double) * (size_t)taps->most);
    int ok = taps->first && taps->weights && exact;
    taps->count = taps->first + 2 * num_pairs;
    for (int out = 0; ok && out < outputs; out++)
        weigh(taps, mirrored ? outputs - 1 - out : out, exact, (out + 0.5) * scale, support, inputs);
    free(exact);
    return ok;
}

static void free_taps(Taps *taps) {
    free(taps->first);
    free(taps->weights);
}

#ifdef __AVX2__

static inline __m256i wide(const unsigned char *bytes) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)bytes));
}

/* Sixteen 15-bit values from as many columns of `count` rows. */
static inline __m256i blend_16(const unsigned char *rows, size_t stride, const int16_t *weights,
                               int count) {
    __m256i low = _mm256_set1_epi32(64), high = low;
    for (int tap = 0; tap < count; tap += 2, rows += 2 * stride) {
        int32_t both;
        memcpy(&both, weights + tap, sizeof both);
        __m256i weight = _mm256_set1_epi32(both), one = wide(rows);
        __m256i other = tap + 1 < count ? wide(rows + stride) : one; /* or its weight is zero */
        low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_unpacklo_epi16(one, other), weight));
        high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_unpackhi_epi16(one, other), weight));
    }
    return _mm256_packs_epi32(_mm256_srai_epi32(low, 7), _mm256_srai_epi32(high, 7));
}

static void blend_rows(const unsigned char *rows, size_t stride, const int16_t *weights, int count,
                       int16_t *out, int num_values) {
    for (int i = 0; i < num_values; i += 16)
        _mm256_storeu_si256((__m256i *)(out + i), blend_16(rows + i, stride, weights, count));
}

/* Three-channel pixels of 15 bits, side by side, to `outputs` pixels of 8 bits, two at a time. */
static void blend_columns(const int16_t *row, const Taps *taps, int outputs, unsigned char *out) {
    /* (r0 r1)(g0 g1)(b0 b1) times (w0 w1), added in pairs; an output in each half */
    const __m256i pairs = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11, -1, -1, -1, -1));
    size_t most = (size_t)taps->most;
    for (int at = 0; at < outputs; at += 2) {
        const int16_t *left = row + 3 * (size_t)taps->first[at];
        const int16_t *right = row + 3 * (size_t)taps->first[at + 1];
        const int16_t *weights = taps->weights + (size_t)at * most;
        int count = taps->count[at] > taps->count[at + 1] ? taps->count[at] : taps->count[at + 1];
        __m256i sum = _mm256_set1_epi32(1 << 20);
        for (int tap = 0; tap < count; tap += 2) {
            int32_t here, there;
            memcpy(&here, weights + tap, sizeof here);
            memcpy(&there, weights + most + tap, sizeof there);
            __m256i two = _mm256_inserti128_si256(
                _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(left + 3 * tap))),
                _mm_loadu_si128((const __m128i *)(right + 3 * tap)), 1);
            __m256i weight = _mm256_inserti128_si256(_mm256_set1_epi32(here),
                                                     _mm_set1_epi32(there), 1);
            two = _mm256_shuffle_epi8(two, pairs);
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(two, weight));
        }
        sum = _mm256_srai_epi32(sum, 21);
        sum = _mm256_packus_epi16(_mm256_packs_epi32(sum, sum), sum);
        int32_t first = _mm_cvtsi128_si32(_mm256_castsi256_si128(sum));
        int32_t second = _mm_cvtsi128_si32(_mm256_extracti128_si256(sum, 1));
        if (at + 2 < outputs) { /* a fourth byte that the next pixel overwrites */
            memcpy(out + 3 * at, &first, 4);
            memcpy(out + 3 * at + 3, &second, 4);
        } else {
            memcpy(out + 3 * at, &first, 3);
            if (at + 1 < outputs) memcpy(out + 3 * at + 3, &second, 3);
        }
    }
}

#else

static void blend_rows(const unsigned char *rows, size_t stride, const int16_t *weights, int count,
                       int16_t *out, int num_values) {
    for (int i = 0; i < num_values; i++) {
        int32_t sum = 64;
        for (int tap = 0; tap < count; tap++) sum += weights[tap] * rows[stride * (size_t)tap + i];
        out[i] = (int16_t)(sum >> 7);
    }
}

static void blend_columns(const int16_t *row, const Taps *taps, int outputs, unsigned char *out) {
    for (int at = 0; at < outputs; at++) {
        const int16_t *pixel = row + 3 * (size_t)taps->first[at];
        const int16_t *weights = taps->weights + (size_t)at * (size_t)taps->most;
        int32_t sums[3] = {1 << 20, 1 << 20, 1 << 20};
        for (int tap = 0; tap < taps->count[at]; tap++)
            for (int c = 0; c < 3; c++) sums[c] += weights[tap] * pixel[3 * tap + c];
        for (int c = 0; c < 3; c++) {
            int32_t value = sums[c] >> 21;
            out[3 * at + c] = (unsigned char)(value < 0 ? 0 : value > 255 ? 255 : value);
        }
    }
}

#endif

int resize(Scratch *scratch, const unsigned char *pixels, size_t stride, int height, int width,
           unsigned char *out, int out_height, int out_width, int mirrored) {
    Taps down, across;
    int num_values = 3 * width;
    memset(&down, 0, sizeof down);
    memset(&across, 0, sizeof across);
    int ok = make_taps(&down, height, out_height, 0) &&
             make_taps(&across, width, out_width, mirrored);
    /* what the last outputs' weights of zero are multiplied with */
    size_t behind = 3 * (size_t)across.most + 32;
    ok = ok && grown((void **)&scratch->rows, &scratch->row_bytes,
                     sizeof(int16_t) * ((size_t)num_values + behind));
    for (int row = 0; ok && row < out_height; row++) {
        blend_rows(pixels + stride * (size_t)down.first[row], stride,
                   down.weights + (size_t)row * (size_t)down.most, down.count[row], scratch->rows,
                   num_values);
        memset(scratch->rows + num_values, 0, sizeof(int16_t) * behind);
        blend_columns(scratch->rows, &across, out_width, out + 3 * (size_t)out_width * (size_t)row);
    }
    free_taps(&down);
    free_taps(&across);
    return ok;
}
