/* A region of a JPEG, decoded, resized and mirrored in one call, without the interpreter lock.
 *
 * Compiled on first use by native.py, which also hands over the functions of the libjpeg-turbo
 * that it found: nothing is linked and no header of it is needed.  The layouts below are those of
 * libjpeg-turbo's ABI 6.2 on 64-bit machines; jpeg_CreateDecompress compares the struct's size.
 *
 * Decoding: entropy decoding goes from the top of the image to the last row that is wanted;
 * the inverse DCT, upsampling and colour conversion are done for the region's blocks only.  A
 * margin of MARGIN columns makes the result equal, bit by bit, to a full decode: chroma is
 * interpolated from neighbours, and a crop's own border is treated as the image's.
 *
 * Resizing: bilinear with a support that grows with the reduction, cut off at the region's
 * borders, as Pillow and torch (antialias=True) have it.  Vertically first, from 8 bits to 15,
 * then horizontally back to 8, with weights of 14 bits: less rounding than an 8-bit middle.
 */
#include <math.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE4_1__
#include <smmintrin.h>
#endif

enum { ABI = 62, STRUCT_BYTES = 632, ERROR_BYTES = 168, MESSAGE_BYTES = 200, MARGIN = 32 };
enum { RGB = 2, ISLOW = 0, IFAST = 1 };

typedef struct {
    struct errors *err;
    char before_size[40];
    uint32_t image_width, image_height;
    char before_out[8];
    int32_t out_color_space;
    uint32_t scale_num, scale_denom;
    char before_dct[20];
    int32_t dct_method, fancy_upsampling;
    char before_output[32];
    uint32_t output_width, output_height;
    char before_scanline[24];
    uint32_t output_scanline;
    char rest[STRUCT_BYTES - 172];
} Decompress;

struct errors {
    void (*error_exit)(Decompress *);
    void (*emit_message)(Decompress *, int);
    void (*output_message)(Decompress *);
    void (*format_message)(Decompress *, char *);
    char before_warnings[96];
    long num_warnings;
    char rest[ERROR_BYTES - 136];
    jmp_buf escape;
    char message[MESSAGE_BYTES];
};

_Static_assert(sizeof(Decompress) == STRUCT_BYTES, "jpeg_decompress_struct");
_Static_assert(offsetof(Decompress, image_width) == 48, "image_width");
_Static_assert(offsetof(Decompress, dct_method) == 96, "dct_method");
_Static_assert(offsetof(Decompress, output_width) == 136, "output_width");
_Static_assert(offsetof(Decompress, output_scanline) == 168, "output_scanline");
_Static_assert(offsetof(struct errors, num_warnings) == 128, "num_warnings");

/* In the order in which native.py gives them. */
static struct {
    void *(*std_error)(struct errors *);
    void (*create)(Decompress *, int, size_t);
    void (*mem_src)(Decompress *, const unsigned char *, unsigned long);
    int (*read_header)(Decompress *, int);
    int (*start)(Decompress *);
    void (*crop_scanline)(Decompress *, uint32_t *, uint32_t *);
    uint32_t (*skip_scanlines)(Decompress *, uint32_t);
    uint32_t (*read_scanlines)(Decompress *, unsigned char **, uint32_t);
    int (*finish)(Decompress *);
    void (*destroy)(Decompress *);
} lib;

void iopipe_bind(void **functions) { memcpy(&lib, functions, sizeof lib); }

/* ---- errors: libjpeg must not return from one, so it leaves by longjmp ------------------- */

static void on_error(Decompress *image) {
    image->err->format_message(image, image->err->message);
    longjmp(image->err->escape, 1);
}

static void on_message(Decompress *image, int level) {
    if (level >= 0) return;
    if (image->err->num_warnings++ == 0) image->err->format_message(image, image->err->message);
}

static void no_output(Decompress *image) { (void)image; }

/* ---- memory that a thread keeps from image to image -------------------------------------- */

typedef struct {
    unsigned char *pixels;
    int16_t *rows;
    int32_t *sums;
    size_t pixel_bytes, row_bytes, sum_bytes;
} Scratch;

static int grown(void **memory, size_t *have, size_t want) {
    if (*have >= want) return 1;
    void *larger = realloc(*memory, want + want / 4);
    if (larger == NULL) return 0;
    *memory = larger;
    *have = want + want / 4;
    return 1;
}

void *iopipe_scratch(void) { return calloc(1, sizeof(Scratch)); }

void iopipe_free_scratch(void *scratch) {
    Scratch *one = scratch;
    free(one->pixels);
    free(one->rows);
    free(one->sums);
    free(one);
}

/* ---- resize ------------------------------------------------------------------------------ */

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

static int resize(Scratch *scratch, const unsigned char *pixels, size_t stride, int height,
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

/* ---- decode ------------------------------------------------------------------------------ */

typedef struct {
    const unsigned char *content;
    uint64_t num_bytes;
    int32_t top, left, height, width; /* the region, in pixels of the whole image */
    int32_t mirrored;
    int32_t is_scaled; /* fidelity: a smaller DCT where that is enough, and faster transforms */
    unsigned char *out; /* [out_height, out_width, 3], or the region's own size where that is 0 */
    int32_t status;     /* 0, or what was wrong */
} Job;

enum { FINE = 0, BROKEN = 1, DAMAGED = 2, OTHER_SIZE = 3, NO_MEMORY = 4 };

/* Both edges of a region, to the nearest pixel of the scaled axis. */
static void rescale(int32_t *start, int32_t *length, uint32_t whole, uint32_t scaled) {
    double factor = (double)scaled / whole;
    int32_t end = (int32_t)rint((*start + *length) * factor);
    int32_t begin = (int32_t)rint(*start * factor);
    if (begin > (int32_t)scaled - 1) begin = (int32_t)scaled - 1;
    *length = end > begin ? end - begin : 1;
    *start = begin;
}

static void choose_scale(Decompress *image, const Job *job, int out_height, int out_width) {
    uint32_t denominator = 1;
    if (job->is_scaled)
        while (denominator < 8 && job->height / (int)(2 * denominator) >= out_height &&
               job->width / (int)(2 * denominator) >= out_width)
            denominator *= 2;
    image->scale_num = 1;
    image->scale_denom = denominator;
    image->dct_method = job->is_scaled ? IFAST : ISLOW;
    image->fancy_upsampling = !job->is_scaled;
}

static int decode(Job *job, Scratch *scratch, struct errors *errors, Decompress *image,
                  int out_height, int out_width) {
    lib.mem_src(image, job->content, (unsigned long)job->num_bytes);
    lib.read_header(image, 1);
    if (job->top < 0 || job->left < 0 || job->height < 1 || job->width < 1 ||
        (uint32_t)job->top + (uint32_t)job->height > image->image_height ||
        (uint32_t)job->left + (uint32_t)job->width > image->image_width)
        return OTHER_SIZE;
    image->out_color_space = RGB;
    choose_scale(image, job, out_height, out_width);
    lib.start(image);
    int32_t top = job->top, left = job->left, height = job->height, width = job->width;
    rescale(&top, &height, image->image_height, image->output_height);
    rescale(&left, &width, image->image_width, image->output_width);
    uint32_t begin = left > MARGIN ? (uint32_t)(left - MARGIN) : 0;
    uint32_t end = (uint32_t)(left + width) + MARGIN, span;
    span = (end < image->output_width ? end : image->output_width) - begin;
    if (begin > 0 || span < image->output_width) lib.crop_scanline(image, &begin, &span);
    size_t stride = 3 * (size_t)span;
    if (!grown((void **)&scratch->pixels, &scratch->pixel_bytes, stride * (size_t)height))
        return NO_MEMORY;
    if (top > 0) lib.skip_scanlines(image, (uint32_t)top);
    for (int row = 0; row < height;) {
        unsigned char *target = scratch->pixels + stride * (size_t)row;
        uint32_t num_rows = lib.read_scanlines(image, &target, 1);
        if (num_rows == 0) return BROKEN;
        row += (int)num_rows;
    }
    /* What follows the last row shows whether the file is whole; above it, nobody knows. */
    if ((uint32_t)(top + height) == image->output_height) lib.finish(image);
    if (errors->num_warnings) return DAMAGED;
    const unsigned char *region = scratch->pixels + 3 * (size_t)((uint32_t)left - begin);
    if (out_height == 0) {
        for (int row = 0; row < height; row++)
            memcpy(job->out + 3 * (size_t)width * (size_t)row, region + stride * (size_t)row,
                   3 * (size_t)width);
        return FINE;
    }
    if (!resize(scratch, region, stride, height, width, job->out, out_height, out_width,
                job->mirrored))
        return NO_MEMORY;
    return FINE;
}

static int run_job(Job *job, Scratch *scratch, int out_height, int out_width, char *message) {
    struct errors errors;
    Decompress image;
    memset(&image, 0, sizeof image);
    memset(&errors, 0, sizeof errors);
    image.err = lib.std_error(&errors);
    errors.error_exit = on_error;
    errors.emit_message = on_message;
    errors.output_message = no_output;
    int status;
    if (setjmp(errors.escape)) {
        status = BROKEN;
    } else {
        lib.create(&image, ABI, sizeof image);
        status = decode(job, scratch, &errors, &image, out_height, out_width);
    }
    lib.destroy(&image);
    memcpy(message, errors.message, MESSAGE_BYTES);
    return status;
}

/* Work on `num_jobs` images, which are not resized where `out_height` is 0; stops at the first
 * that fails and gives its number, else -1. */
int iopipe_decode(Job *jobs, int num_jobs, void *scratch, int out_height, int out_width,
                  char *message) {
    for (int number = 0; number < num_jobs; number++) {
        jobs[number].status = run_job(jobs + number, scratch, out_height, out_width, message);
        if (jobs[number].status != FINE) return number;
    }
    return -1;
}
