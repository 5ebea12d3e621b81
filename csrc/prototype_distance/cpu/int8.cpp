#include "prototype_distance/cpu/int8.h"

#include <immintrin.h>

#include "cpu/simd.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

using Floats = Vector<float>;
typedef std::int32_t Ints __attribute__((vector_size(64)));

constexpr int kTileBytes = kBlock * kStep;
constexpr int kSelectByB = 0xb8;  // truth table of vpternlog for "b ? c : a"

inline Floats infinities() { return __builtin_inff() - Floats{}; }
inline __m512i all_lanes(int x) { return __m512i(x - Ints{}); }

// The smallest |p|^2 / 2 - scale * dot over `count` prototypes, for 16 features. Its last bits are replaced by the
// prototype's place in the block.
template <int count>
inline Floats smallest(const Ints* dots, const float* offset, int first, Floats scale, Floats least) {
    for (int i = 0; i < count; ++i) {
        const Floats score = offset[i] - __builtin_convertvector(dots[i], Floats) * scale;
        const __m512i marked =
            _mm512_ternarylogic_epi32(__m512i(score), all_lanes(kPlace), all_lanes(first + i), kSelectByB);
        least = Floats(_mm512_maskz_min_ps(0xffff, __m512(marked), __m512(least)));
    }
    return least;
}

inline Floats scale_of(const Int8Screen& s, std::int64_t feature, std::int64_t block) {
    return load(s.scale + feature) * s.blocks.scale[block];
}

// Adds the products of four unsigned and four signed bytes to each lane. It is not the intrinsic because GCC 12 copies
// every register around that.
inline void add_products(Ints& sums, Ints unsigned_bytes, Ints signed_bytes) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(unsigned_bytes), "v"(signed_bytes));
}

inline Ints load_bytes(const void* from) {
    Ints v;
    __builtin_memcpy(&v, from, sizeof v);
    return v;
}

template <int odd>
Ints every_other(Ints a, Ints b, bool lanes) {
    constexpr auto all = std::make_integer_sequence<int, 16>{};
    return lanes ? Ints(every_other_lane<float, odd>(Floats(a), Floats(b), all))
                 : Ints(every_other_block<float, odd>(Floats(a), Floats(b), all));
}
// Lane i of the result is the sum across the lanes of rows[i]; sum_rows of simd.h for integers.
template <int count>
Ints sum_rows(const Ints (&rows)[count]) {
    if constexpr (count == 1) {
        return rows[0];
    } else {
        Ints halved[count / 2];
        for (int i = 0; i < count / 2; ++i)
            halved[i] = every_other<0>(rows[2 * i], rows[2 * i + 1], count > 4) +
                        every_other<1>(rows[2 * i], rows[2 * i + 1], count > 4);
        return sum_rows<count / 2>(halved);
    }
}

void dots(const std::uint8_t* row, const Int8Blocks& blocks, std::int64_t block, std::int64_t steps, std::int32_t* to) {
    Ints sums[kBlock] = {};
    const std::int8_t* tile = blocks.tiles + block * steps * kTileBytes;
    for (std::int64_t step = 0; step < steps; ++step, tile += kTileBytes) {
        const Ints f = load_bytes(row + step * kStep);
        for (int i = 0; i < kBlock; ++i) add_products(sums[i], f, load_bytes(tile + i * kStep));
    }
    const Ints total = sum_rows(sums) + load_bytes(blocks.bias + block * kBlock);
    __builtin_memcpy(to, &total, sizeof total);
}

#if defined(__AMX_INT8__)

struct alignas(64) TileShapes {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {};
    std::uint8_t rows[16] = {};
};

// Tiles 0 to 3 accumulate, 4 and 5 hold prototypes, 6 and 7 features: 32 x 32 dot products for 4 loads.
void minima(const Int8Screen& s) {
    TileShapes shapes;
    for (int i = 0; i < 8; ++i) shapes.row_bytes[i] = kStep, shapes.rows[i] = kBlock;
    _tile_loadconfig(&shapes);
    Ints products[4][kBlock];
    const std::int64_t row_of_tiles = s.steps * kTileBytes;
    for (std::int64_t block = s.begin; block < s.end; block += 2)
        for (std::int64_t feature = 0; feature < s.features; feature += kInt8Group) {
            const std::int8_t* p = s.blocks.tiles + block * row_of_tiles;
            const std::uint8_t* f = s.panels + feature / kFeatures * row_of_tiles;
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            for (std::int64_t step = 0; step < s.steps; ++step, p += kTileBytes, f += kTileBytes) {
                _tile_loadd(4, p, kStep);
                _tile_loadd(6, f, kStep);
                _tile_dpbssd(0, 4, 6);
                _tile_loadd(7, f + row_of_tiles, kStep);
                _tile_dpbssd(1, 4, 7);
                _tile_loadd(5, p + row_of_tiles, kStep);
                _tile_dpbssd(2, 5, 6);
                _tile_dpbssd(3, 5, 7);
            }
            _tile_stored(0, products[0], kStep);
            _tile_stored(1, products[1], kStep);
            _tile_stored(2, products[2], kStep);
            _tile_stored(3, products[3], kStep);
            for (int i = 0; i < 4; ++i) {
                const std::int64_t b = block + i / 2, first = feature + i % 2 * kFeatures;
                const Floats least =
                    smallest<kBlock>(products[i], s.blocks.offset + b * kBlock, 0, scale_of(s, first, b), infinities());
                store(s.minima + (b - s.begin) * s.features + first, least);
            }
        }
    _tile_release();
}

constexpr bool kSigned = true;

#else

constexpr int kRows = 8;  // prototypes at a time: 2 x 8 of 32 registers accumulate

// Adds the products of 4 channels.
inline void step_on(Ints (&sums)[2][kRows], const std::uint8_t* f, std::int64_t next_panel, const std::int8_t* p) {
    const Ints f0 = load_bytes(f), f1 = load_bytes(f + next_panel);
    for (int i = 0; i < kRows; ++i) {
        std::int32_t four;
        __builtin_memcpy(&four, p + i * kStep, 4);
        const Ints row = four - Ints{};
        add_products(sums[0][i], f0, row);
        add_products(sums[1][i], f1, row);
    }
}

void minima(const Int8Screen& s) {
    const std::int64_t row_of_tiles = s.steps * kTileBytes;
    for (std::int64_t block = s.begin; block < s.end; ++block)
        for (std::int64_t feature = 0; feature < s.features; feature += kInt8Group) {
            Floats least[2] = {infinities(), infinities()};
            for (int half = 0; half < kBlock; half += kRows) {
                Ints sums[2][kRows];
                for (int i = 0; i < kRows; ++i)
                    sums[0][i] = sums[1][i] = s.blocks.bias[block * kBlock + half + i] - Ints{};
                const std::int8_t* p = s.blocks.tiles + block * row_of_tiles + half * kStep;
                const std::uint8_t* f = s.panels + feature / kFeatures * row_of_tiles;
                for (std::int64_t step = 0; step < s.steps; ++step, p += kTileBytes, f += kTileBytes)
                    for (int four = 0; four < kStep / 4; ++four)
                        step_on(sums, f + four * kStep, row_of_tiles, p + four * 4);
                for (int i = 0; i < 2; ++i)
                    least[i] = smallest<kRows>(sums[i], s.blocks.offset + block * kBlock + half, half,
                                               scale_of(s, feature + i * kFeatures, block), least[i]);
            }
            float* to = s.minima + (block - s.begin) * s.features + feature;
            store(to, least[0]);
            store(to + kFeatures, least[1]);
        }
}

constexpr bool kSigned = false;

#endif

}  // namespace

extern const Int8Kernels kInt8Kernels{kSigned, &minima, &dots};

}  // namespace VSAD_ISA
}  // namespace vsad
