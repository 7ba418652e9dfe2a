/* What the files of native code share: libjpeg's structs, a thread's memory, errors.
 *
 * The layouts are those of libjpeg-turbo's ABI 6.2 on 64-bit machines, so that no header of it is
 * needed; jpeg_CreateDecompress compares the struct's size, and native.py tries it out.
 */
#ifndef IOPIPE_NATIVE_H
#define IOPIPE_NATIVE_H

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

enum { ABI = 62, STRUCT_BYTES = 632, ERROR_BYTES = 168, MESSAGE_BYTES = 200, MARGIN = 32 };
enum { NUM_TABLES = 4, MAX_COMPONENTS = 4, MAX_BLOCKS = 10 };

typedef struct Decompress Decompress;

typedef struct {
    const unsigned char *next_input_byte;
    size_t bytes_in_buffer;
} Source;

typedef struct {
    uint8_t bits[17], symbols[256]; /* how many codes of each length; what they stand for */
} HuffmanSpec;

typedef struct {
    char before_tables[20];
    int32_t dc_table, ac_table;
    char before_size[8];
    int32_t scaled_size;
} Component;

typedef struct {
    void (*start_pass)(Decompress *);
    int (*decode_mcu)(Decompress *, int16_t (**)[64]);
} Entropy;

struct Decompress {
    struct errors *err;
    char before_source[32];
    Source *src;
    uint32_t image_width, image_height;
    int32_t num_components;
    int32_t jpeg_color_space, out_color_space;
    uint32_t scale_num, scale_denom;
    char before_dct[20];
    int32_t dct_method, fancy_upsampling;
    char before_output[32];
    uint32_t output_width, output_height;
    char before_scanline[24];
    uint32_t output_scanline;
    char before_huffman[60];
    HuffmanSpec *dc_tables[NUM_TABLES], *ac_tables[NUM_TABLES];
    int32_t precision;
    char before_progressive[12];
    int32_t is_progressive, is_arithmetic;
    char before_restart[48];
    uint32_t restart_interval;
    char before_factors[36];
    int32_t max_h_factor, max_v_factor;
    int32_t min_dct_size; /* once the header was read; 1 where there is no DCT */
    char before_scan[12];
    int32_t num_in_scan;
    Component *in_scan[MAX_COMPONENTS];
    uint32_t mcus_per_row, mcu_rows;
    int32_t blocks_in_mcu;
    int32_t membership[MAX_BLOCKS];
    char before_entropy[68];
    Entropy *entropy;
    char rest[STRUCT_BYTES - 600];
};

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
    struct Huffman *huffman;
};

_Static_assert(sizeof(Decompress) == STRUCT_BYTES, "jpeg_decompress_struct");
_Static_assert(offsetof(Decompress, src) == 40, "src");
_Static_assert(offsetof(Decompress, image_width) == 48, "image_width");
_Static_assert(offsetof(Decompress, out_color_space) == 64, "out_color_space");
_Static_assert(offsetof(Decompress, dct_method) == 96, "dct_method");
_Static_assert(offsetof(Decompress, output_width) == 136, "output_width");
_Static_assert(offsetof(Decompress, output_scanline) == 168, "output_scanline");
_Static_assert(offsetof(Decompress, dc_tables) == 232, "dc_huff_tbl_ptrs");
_Static_assert(offsetof(Decompress, precision) == 296, "data_precision");
_Static_assert(offsetof(Decompress, is_progressive) == 312, "progressive_mode");
_Static_assert(offsetof(Decompress, restart_interval) == 368, "restart_interval");
_Static_assert(offsetof(Decompress, max_h_factor) == 408, "max_h_samp_factor");
_Static_assert(offsetof(Decompress, min_dct_size) == 416, "min_DCT_scaled_size");
_Static_assert(offsetof(Decompress, num_in_scan) == 432, "comps_in_scan");
_Static_assert(offsetof(Decompress, mcus_per_row) == 472, "MCUs_per_row");
_Static_assert(offsetof(Decompress, membership) == 484, "MCU_membership");
_Static_assert(offsetof(Decompress, entropy) == 592, "entropy");
_Static_assert(offsetof(Component, scaled_size) == 36, "DCT_scaled_size");
_Static_assert(offsetof(struct errors, num_warnings) == 128, "num_warnings");

/* Memory that a thread keeps from image to image. */
typedef struct {
    unsigned char *pixels;
    int16_t *rows;
    size_t pixel_bytes, row_bytes;
    struct Huffman *huffman;
} Scratch;

/* 0: no memory. */
static inline int grown(void **memory, size_t *have, size_t want) {
    if (*have >= want) return 1;
    void *larger = realloc(*memory, want + want / 4);
    if (larger == NULL) return 0;
    *memory = larger;
    *have = want + want / 4;
    return 1;
}

/* ---- resize.c ---------------------------------------------------------------------------- */

enum { BEHIND = 16 }; /* bytes behind the last pixel that are read, whatever is in them */

/* 0: no memory. */
int resize(Scratch *scratch, const unsigned char *pixels, size_t stride, int height, int width,
           unsigned char *out, int out_height, int out_width, int mirrored);

/* ---- huffman.c --------------------------------------------------------------------------- */

struct Huffman *new_huffman(void);
void free_huffman(struct Huffman *huffman);

/* Whether `huffman` can decode the image's only scan; its coefficients come from there then, for
 * the columns from `begin` to `end` of MCUs.  After jpeg_start_decompress. */
int take_over(struct Huffman *huffman, Decompress *image, uint32_t begin, uint32_t end);

enum { ODD = 2 }; /* what longjmp to `escape` brings where libjpeg had better decode by itself */

#endif
