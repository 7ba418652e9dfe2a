/* A region of a JPEG, decoded, resized and mirrored in one call, without the interpreter lock.
 *
 * Compiled on first use by native.py, which also hands over the functions of the libjpeg-turbo
 * that it found: nothing is linked and no header of it is needed (native.h).
 *
 * Entropy decoding (huffman.c) goes from the top of the image to the last row that is wanted;
 * the inverse DCT, upsampling and colour conversion are done for the region's blocks only.  A
 * margin of MARGIN columns makes the result equal, bit by bit, to a full decode: chroma is
 * interpolated from neighbours, and a crop's own border is treated as the image's.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "native.h"

enum { RGB = 2, ISLOW = 0, IFAST = 1 };

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

void *iopipe_scratch(void) {
    Scratch *one = calloc(1, sizeof(Scratch));
    if (one) one->huffman = new_huffman();
    return one;
}

void iopipe_free_scratch(void *scratch) {
    Scratch *one = scratch;
    free_huffman(one->huffman);
    free(one->pixels);
    free(one->rows);
    free(one);
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

static void choose_scale(Decompress *image, const Job *job, int out_height, int out_width,
                         int is_lossless) {
    uint32_t denominator = 1;
    if (job->is_scaled && !is_lossless)
        while (denominator < 8 && job->height / (int)(2 * denominator) >= out_height &&
               job->width / (int)(2 * denominator) >= out_width)
            denominator *= 2;
    image->scale_num = 1;
    image->scale_denom = denominator;
    image->dct_method = job->is_scaled ? IFAST : ISLOW;
    image->fancy_upsampling = !job->is_scaled;
}

/* Whether there were `height` rows from `top` on; libjpeg does not skip in lossless images. */
static int read_rows(Decompress *image, unsigned char *pixels, size_t stride, int top, int height,
                     int is_lossless) {
    if (top > 0 && !is_lossless) lib.skip_scanlines(image, (uint32_t)top);
    for (int row = is_lossless ? -top : 0; row < height;) {
        unsigned char *target = pixels + (row > 0 ? stride * (size_t)row : 0);
        uint32_t num_rows = lib.read_scanlines(image, &target, 1);
        if (num_rows == 0) return 0;
        row += (int)num_rows;
    }
    return 1;
}

static int decode(Job *job, Scratch *scratch, Decompress *image, int out_height, int out_width,
                  int is_ours) {
    lib.mem_src(image, job->content, (unsigned long)job->num_bytes);
    lib.read_header(image, 1);
    if (job->top < 0 || job->left < 0 || job->height < 1 || job->width < 1 ||
        (uint32_t)job->top + (uint32_t)job->height > image->image_height ||
        (uint32_t)job->left + (uint32_t)job->width > image->image_width)
        return OTHER_SIZE;
    int is_lossless = image->min_dct_size == 1; /* libjpeg-turbo 3 decodes these, whole */
    image->out_color_space = RGB;
    choose_scale(image, job, out_height, out_width, is_lossless);
    lib.start(image);
    int32_t top = job->top, left = job->left, height = job->height, width = job->width;
    rescale(&top, &height, image->image_height, image->output_height);
    rescale(&left, &width, image->image_width, image->output_width);
    uint32_t begin = left > MARGIN ? (uint32_t)(left - MARGIN) : 0, span;
    uint32_t end = (uint32_t)(left + width) + MARGIN;
    if (is_lossless) begin = 0;
    if (is_lossless || end > image->output_width) end = image->output_width;
    span = end - begin;
    if (begin > 0 || span < image->output_width) lib.crop_scanline(image, &begin, &span);
    uint32_t unit = (image->num_components == 1 ? 1 : (uint32_t)image->max_h_factor) * 8;
    unit /= image->scale_denom;
    if (is_ours && !is_lossless)
        take_over(scratch->huffman, image, begin / unit, (begin + span - 1) / unit + 1);
    size_t stride = 3 * (size_t)span;
    if (!grown((void **)&scratch->pixels, &scratch->pixel_bytes, stride * (size_t)height + BEHIND))
        return NO_MEMORY;
    if (!read_rows(image, scratch->pixels, stride, top, height, is_lossless)) return BROKEN;
    /* What follows the last row shows whether the file is whole; above it, nobody knows. */
    if ((uint32_t)(top + height) == image->output_height) lib.finish(image);
    if (image->err->num_warnings) return DAMAGED;
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

static int run_job(Job *job, Scratch *scratch, int out_height, int out_width, char *message,
                   int is_ours) {
    struct errors errors;
    Decompress image;
    memset(&image, 0, sizeof image);
    memset(&errors, 0, sizeof errors);
    image.err = lib.std_error(&errors);
    errors.error_exit = on_error;
    errors.emit_message = on_message;
    errors.output_message = no_output;
    int status;
    switch (setjmp(errors.escape)) {
    case 0:
        lib.create(&image, ABI, sizeof image);
        status = decode(job, scratch, &image, out_height, out_width, is_ours);
        break;
    case ODD:
        lib.destroy(&image);
        return run_job(job, scratch, out_height, out_width, message, 0);
    default:
        status = BROKEN;
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
        jobs[number].status = run_job(jobs + number, scratch, out_height, out_width, message, 1);
        if (jobs[number].status != FINE) return number;
    }
    return -1;
}
