/* Huffman decoding of a baseline JPEG, in place of libjpeg's own, which takes 3/4 of its time.
 *
 * libjpeg asks its entropy decoder for one MCU after the other; here it asks this one.  Blocks
 * outside the region are only stepped over: several symbols by one look into a table, which says
 * how many bits and coefficients they take.  In the others a look gives one coefficient or two,
 * with their values, where these bits show them whole; of photographs 95 in 100 are so.
 *
 * The bits are those of a copy of the scan without stuffed bytes, so that eight bytes are loaded
 * at once and unconditionally; behind it lie as many zero bytes as a MCU can eat.  Whatever is
 * out of order (a bad code, too few bits, an unexpected marker) is left to libjpeg: the image is
 * decoded again, by it alone, which says what is wrong or makes the best of it.
 *
 * Sources: ITU-T T.81, annex F; the left-aligned bit buffer is F. Giesen's "variant 4"
 * (Reading bits in far too many ways, part 2, 2018).
 */
#include <stdlib.h>
#include <string.h>

#include "native.h"

enum { LOOK = 10, PEEK = 64 - LOOK, EOB = 192, LONG = 100, MAX_STEP = 40 };
enum { PADDING = MAX_BLOCKS * 64 * 4 + 16 }; /* 31 bits a symbol at most */

/* An entry of a table: bits 0-5 those to consume, 8-15 how far the coefficients go on (or EOB,
 * or LONG where the code does not fit), 16-20 the length of the code, 24-27 the value's bits. */
#define ENTRY(bits, step, code, size) \
    ((uint32_t)(bits) | (uint32_t)(step) << 8 | (uint32_t)(code) << 16 | (uint32_t)(size) << 24)
#define BITS(entry) ((entry) & 63)
#define STEP(entry) ((int)((entry) >> 8 & 255))
#define CODE(entry) ((entry) >> 16 & 31)
#define SIZE(entry) ((entry) >> 24)

/* An entry of `two`: bits 0-5 those to consume, 8-15 and 16-23 two steps, the second one 0 where
 * there is one coefficient; 32-47 and 48-63 their values. */
#define TWO(bits, step, second, value, other)                                             \
    ((uint64_t)(bits) | (uint64_t)(step) << 8 | (uint64_t)(second) << 16 |                \
     (uint64_t)(uint16_t)(value) << 32 | (uint64_t)(uint16_t)(other) << 48)
#define SECOND(two) ((int)((two) >> 16 & 255))

typedef struct {
    HuffmanSpec spec;
    int is_made;
    int32_t last[17], offset[17]; /* of each length: the last code, and symbol - code */
    uint32_t one[1 << LOOK];      /* the first symbol of these bits */
    uint32_t many[1 << LOOK];     /* as many symbols as these bits show */
    uint64_t two[1 << LOOK];      /* as many coefficients as they show, two at most */
} Table;

typedef struct {
    const Table *dc, *ac;
    int component, needs_ac;
} Block;

struct Huffman {
    Table dc[NUM_TABLES], ac[NUM_TABLES];
    Block blocks[MAX_BLOCKS];
    int num_blocks;
    uint32_t column, begin, end, num_columns, num_left; /* MCUs of this row; those to come */
    uint32_t interval, until_restart, next_restart;
    int32_t predicted[MAX_COMPONENTS];
    unsigned char *bytes; /* a segment of the scan, unstuffed, and PADDING zeros */
    size_t have;
    const unsigned char *at, *segment_end;
    uint64_t buffer;
    uint32_t bits;
};

struct Huffman *new_huffman(void) { return calloc(1, sizeof(struct Huffman)); }

void free_huffman(struct Huffman *huffman) {
    if (huffman) free(huffman->bytes);
    free(huffman);
}

/* ---- tables ------------------------------------------------------------------------------ */

static uint32_t entry_of(int length, int symbol, int is_dc) {
    int size = is_dc ? symbol : symbol & 15, run = is_dc ? 0 : symbol >> 4;
    int step = is_dc ? 0 : size == 0 && run != 15 ? EOB : run + 1;
    return ENTRY(length + size, step, length, size);
}

static void make_many(Table *table) {
    for (uint32_t bits = 0; bits < 1 << LOOK; bits++) {
        uint32_t used = 0, step = 0;
        while (used < LOOK && step <= MAX_STEP) {
            uint32_t next = table->one[bits << used & ((1 << LOOK) - 1)];
            if (STEP(next) == LONG || used + CODE(next) > LOOK) break;
            used += BITS(next);
            step += (uint32_t)STEP(next);
        }
        table->many[bits] = ENTRY(used, used ? step : LONG, 0, 0);
    }
}

/* The value behind a code: its bits, of which the first one is the sign, turned round. */
static inline int32_t value_of(uint64_t buffer, uint32_t entry) {
    uint64_t bits = buffer << CODE(entry);
    int32_t size = (int32_t)SIZE(entry), is_negative = (int32_t)~(int64_t)(bits >> 32) >> 31;
    int32_t value = (int32_t)(bits >> 1 >> (63 - size));
    return value - (is_negative & ((1 << size) - 1));
}

static void make_two(Table *table) {
    for (uint64_t bits = 0; bits < 1 << LOOK; bits++) {
        uint32_t one = table->one[bits], other = table->one[bits << BITS(one) & ((1 << LOOK) - 1)];
        int32_t value = value_of(bits << PEEK, one);
        if (STEP(one) == LONG || BITS(one) > LOOK)
            table->two[bits] = TWO(0, LONG, 0, 0, 0);
        else if (STEP(one) == EOB || STEP(other) == LONG || BITS(one) + BITS(other) > LOOK)
            table->two[bits] = TWO(BITS(one), STEP(one), 0, value, value);
        else
            table->two[bits] = TWO(BITS(one) + BITS(other), STEP(one), STEP(other), value,
                                   value_of(bits << PEEK << BITS(one), other));
    }
}

static int make_table(Table *table, const HuffmanSpec *spec, int is_dc) {
    if (spec == NULL) return 0;
    if (table->is_made && memcmp(&table->spec, spec, sizeof *spec) == 0) return 1;
    table->is_made = 0;
    table->spec = *spec;
    for (int i = 0; i < 1 << LOOK; i++) table->one[i] = ENTRY(0, LONG, 0, 0);
    int code = 0, symbol = 0;
    for (int length = 1; length <= 16; length++, code <<= 1) {
        table->offset[length] = symbol - code;
        for (int i = 0; i < spec->bits[length]; i++, code++, symbol++) {
            if (symbol > 255 || code >= (1 << length) - 1) return 0;
            if (is_dc && spec->symbols[symbol] > 15) return 0;
            if (length > LOOK) continue;
            uint32_t entry = entry_of(length, spec->symbols[symbol], is_dc);
            uint32_t first = (uint32_t)code << (LOOK - length);
            for (uint32_t k = 0; k < 1u << (LOOK - length); k++) table->one[first + k] = entry;
        }
        table->last[length] = spec->bits[length] ? code - 1 : -1;
    }
    if (!is_dc) make_many(table);
    if (!is_dc) make_two(table);
    table->is_made = 1;
    return 1;
}

/* ---- bits -------------------------------------------------------------------------------- */

static void odd(Decompress *image) { longjmp(image->err->escape, ODD); }

/* Copy what comes until the next marker, without stuffed bytes. */
static void next_segment(Decompress *image, struct Huffman *huffman) {
    const unsigned char *from = image->src->next_input_byte;
    const unsigned char *end = from + image->src->bytes_in_buffer;
    if (!grown((void **)&huffman->bytes, &huffman->have, (size_t)(end - from) + PADDING))
        odd(image);
    unsigned char *to = huffman->bytes;
    for (;;) {
        const unsigned char *mark = memchr(from, 0xFF, (size_t)(end - from));
        size_t num_bytes = (size_t)((mark ? mark : end) - from);
        memcpy(to, from, num_bytes);
        to += num_bytes;
        from += num_bytes;
        if (end - from < 2 || from[1] != 0) break;
        *to++ = 0xFF;
        from += 2;
    }
    memset(to, 0, PADDING);
    image->src->bytes_in_buffer = (size_t)(end - from);
    image->src->next_input_byte = from;
    huffman->at = huffman->bytes;
    huffman->segment_end = to;
    huffman->buffer = 0;
    huffman->bits = 0;
}

/* At least 56 bits; of `bits` only the lowest six count. */
#define REFILL()                                             \
    do {                                                     \
        uint64_t eight;                                      \
        memcpy(&eight, at, 8);                               \
        buffer |= __builtin_bswap64(eight) >> (bits & 63);   \
        at += (~bits & 63) >> 3;                             \
        bits |= 56;                                          \
    } while (0)
#define CONSUME(entry) (buffer <<= BITS(entry), bits -= (uint32_t)(entry))

/* Bits left over before a marker, or -1 where more were taken than there are. */
static int64_t num_unused(const struct Huffman *huffman) {
    return 8 * (int64_t)(huffman->segment_end - huffman->at) + (int64_t)(huffman->bits & 63);
}

static void restart(Decompress *image, struct Huffman *huffman) {
    const unsigned char *mark = image->src->next_input_byte;
    if (num_unused(huffman) > 7 || image->src->bytes_in_buffer < 2 || mark[0] != 0xFF ||
        mark[1] != 0xD0 + huffman->next_restart)
        odd(image);
    image->src->next_input_byte += 2;
    image->src->bytes_in_buffer -= 2;
    huffman->next_restart = (huffman->next_restart + 1) & 7;
    huffman->until_restart = huffman->interval;
    memset(huffman->predicted, 0, sizeof huffman->predicted);
    next_segment(image, huffman);
}

/* ---- blocks ------------------------------------------------------------------------------ */

/* Beyond the last coefficient: the first one, which is written after all others. */
static const uint8_t ORDER[256] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
};

/* A code that is longer than LOOK, with at least 16 bits in the buffer; 0: there is none. */
static uint32_t long_code(const Table *table, uint64_t buffer, int is_dc) {
    for (int length = LOOK + 1; length <= 16; length++) {
        int32_t code = (int32_t)(buffer >> (64 - length));
        if (code <= table->last[length])
            return entry_of(length, table->spec.symbols[(code + table->offset[length]) & 255], is_dc);
    }
    return 0;
}

/* Whether a block is complete with the step that led to `k`. */
static inline int is_last(int k) { return k == 63 || k >= EOB; }

/* One MCU; where `out` is null it is stepped over.  0: something is odd. */
static int decode_blocks(struct Huffman *huffman, int16_t (**out)[64]) {
    const unsigned char *at = huffman->at;
    uint64_t buffer = huffman->buffer;
    uint32_t bits = huffman->bits, entry;
    for (int number = 0; number < huffman->num_blocks; number++) {
        const Block *block = huffman->blocks + number;
        const Table *ac = block->ac;
        int k = 0, next;
        REFILL();
        entry = block->dc->one[buffer >> PEEK];
        if (STEP(entry) == LONG && (entry = long_code(block->dc, buffer, 1)) == 0) return 0;
        uint32_t sum = (uint32_t)huffman->predicted[block->component];
        sum += (uint32_t)value_of(buffer, entry);
        huffman->predicted[block->component] = (int32_t)sum;
        CONSUME(entry);
        if (out == NULL || !block->needs_ac) {
            while (k < 63) {
                REFILL();
                entry = ac->many[buffer >> PEEK];
                next = k + STEP(entry);
                if (next < 63) { /* a second look before the bits are filled up */
                    CONSUME(entry);
                    k = next;
                    entry = ac->many[buffer >> PEEK];
                    next = k + STEP(entry);
                }
                if (next > 63 && (next < EOB || next >= EOB + 63)) {
                    entry = ac->one[buffer >> PEEK]; /* many reach beyond this block */
                    if (STEP(entry) == LONG) {
                        REFILL();
                        if ((entry = long_code(ac, buffer, 0)) == 0) return 0;
                    }
                    next = k + STEP(entry);
                    if (next > 63 && next < EOB) return 0;
                }
                CONSUME(entry);
                k = next;
            }
            if (out) (*out[number])[0] = (int16_t)sum;
            continue;
        }
        int16_t *coefficients = *out[number];
        while (k < 63) {
            REFILL();
            uint64_t two = ac->two[buffer >> PEEK];
            int middle = k + STEP(two);
            next = middle + SECOND(two);
            for (int left = 3; left && next < 63; left--) { /* looks before bits are short */
                coefficients[ORDER[middle]] = (int16_t)(two >> 32);
                coefficients[ORDER[next]] = (int16_t)(two >> 48);
                CONSUME(two);
                k = next;
                two = ac->two[buffer >> PEEK];
                middle = k + STEP(two);
                next = middle + SECOND(two);
            }
            if (next < 63) continue;
            if (middle < 63 ? next == 63 || next >= EOB : next == middle && is_last(next)) {
                coefficients[ORDER[middle]] = (int16_t)(two >> 32);
                coefficients[ORDER[next]] = (int16_t)(two >> 48);
                CONSUME(two);
                k = next;
                continue;
            }
            entry = ac->one[buffer >> PEEK]; /* the second one is not of this block, or longer */
            next = k + STEP(entry);
            if (next > 63 && next < EOB) {
                if (STEP(entry) != LONG) return 0;
                REFILL();
                if ((entry = long_code(ac, buffer, 0)) == 0) return 0;
                next = k + STEP(entry);
                if (next > 63 && next < EOB) return 0;
            }
            coefficients[ORDER[next]] = (int16_t)value_of(buffer, entry);
            CONSUME(entry);
            k = next;
        }
        coefficients[0] = (int16_t)sum;
    }
    huffman->at = at;
    huffman->buffer = buffer;
    huffman->bits = bits & 63;
    return 1;
}

/* ---- in libjpeg's place ------------------------------------------------------------------ */

static int decode_mcu(Decompress *image, int16_t (**out)[64]) {
    struct Huffman *huffman = image->err->huffman;
    if (huffman->interval && huffman->until_restart-- == 0) {
        restart(image, huffman);
        huffman->until_restart--;
    }
    int is_wanted = huffman->column >= huffman->begin && huffman->column < huffman->end;
    if (!decode_blocks(huffman, is_wanted ? out : NULL) || num_unused(huffman) < 0) odd(image);
    if (++huffman->column == huffman->num_columns) huffman->column = 0;
    if (--huffman->num_left == 0 && num_unused(huffman) > 7) odd(image);
    return 1;
}

int take_over(struct Huffman *huffman, Decompress *image, uint32_t begin, uint32_t end) {
    int is_whole = image->num_in_scan == image->num_components && image->num_components <= 3;
    if (huffman == NULL || !is_whole || image->is_progressive || image->is_arithmetic ||
        image->precision != 8 || image->blocks_in_mcu > MAX_BLOCKS)
        return 0;
    for (int number = 0; number < image->blocks_in_mcu; number++) {
        int component = image->membership[number];
        const Component *of = image->in_scan[component];
        /* libjpeg has looked at these numbers where it has a use for them */
        if ((of->dc_table | of->ac_table) & ~(NUM_TABLES - 1)) return 0;
        Table *dc = huffman->dc + of->dc_table, *ac = huffman->ac + of->ac_table;
        if (!make_table(dc, image->dc_tables[of->dc_table], 1) ||
            !make_table(ac, image->ac_tables[of->ac_table], 0))
            return 0;
        huffman->blocks[number] = (Block){dc, ac, component, of->scaled_size > 1};
    }
    huffman->num_blocks = image->blocks_in_mcu;
    huffman->column = 0;
    huffman->begin = begin;
    huffman->end = end;
    huffman->num_columns = image->mcus_per_row;
    huffman->num_left = image->mcus_per_row * image->mcu_rows;
    huffman->interval = huffman->until_restart = image->restart_interval;
    huffman->next_restart = 0;
    memset(huffman->predicted, 0, sizeof huffman->predicted);
    image->err->huffman = huffman;
    next_segment(image, huffman);
    image->entropy->decode_mcu = decode_mcu;
    return 1;
}
