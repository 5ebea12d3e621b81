#include "cpu/prototype_distance_int8.h"

#include <immintrin.h>

namespace vsad {
namespace VSAD_ISA {
namespace {

constexpr int kTileBytes = kBlock * kStep;

// The smallest |p|^2 / 2 - scale * dot of some products, 16 features each.
template <int count>
inline __m512 smallest(const __m512i* dots, const float* offset, __m512 scale, __m512 least) {
    for (int i = 0; i < count; ++i)
        least = _mm512_min_ps(
            least, _mm512_fnmadd_ps(_mm512_cvtepi32_ps(dots[i]), scale, _mm512_set1_ps(offset[i])));
    return least;
}

inline __m512 scale_of(const Int8Screen& s, std::int64_t feature, std::int64_t block) {
    return _mm512_mul_ps(_mm512_loadu_ps(s.scale + feature), _mm512_set1_ps(s.blocks.scale[block]));
}

void dots(const std::uint8_t* row, const Int8Blocks& blocks, std::int64_t block, std::int64_t steps,
          std::int32_t* to) {
    __m512i sums[kBlock];
    for (int i = 0; i < kBlock; ++i) sums[i] = _mm512_setzero_si512();
    const std::int8_t* tile = blocks.tiles + block * steps * kTileBytes;
    for (std::int64_t step = 0; step < steps; ++step, tile += kTileBytes) {
        const __m512i f = _mm512_loadu_si512(row + step * kStep);
        for (int i = 0; i < kBlock; ++i) sums[i] = _mm512_dpbusd_epi32(sums[i], f, _mm512_loadu_si512(tile + i * kStep));
    }
    for (int i = 0; i < kBlock; ++i) to[i] = _mm512_reduce_add_epi32(sums[i]) + blocks.bias[block * kBlock + i];
}

#if defined(__AMX_INT8__)

struct alignas(64) TileShapes {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {};
    std::uint8_t rows[16] = {};
};

// Tiles 0..3 add up, 4 and 5 hold prototypes, 6 and 7 features: 32 x 32 products for 4 loads.
void minima(const Int8Screen& s) {
    TileShapes shapes;
    for (int i = 0; i < 8; ++i) shapes.row_bytes[i] = kStep, shapes.rows[i] = kBlock;
    _tile_loadconfig(&shapes);
    alignas(64) std::int32_t products[4][kBlock * kFeatures];
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
                const __m512 least = smallest<kBlock>(reinterpret_cast<const __m512i*>(products[i]),
                                                      s.blocks.offset + b * kBlock, scale_of(s, first, b),
                                                      _mm512_set1_ps(__builtin_inff()));
                _mm512_storeu_ps(s.minima + (b - s.begin) * s.features + first, least);
            }
        }
    _tile_release();
}

constexpr bool kSigned = true;

#else

constexpr int kRows = 8;  // prototypes; 2 x 8 of 32 registers add up

// Adds the products of 4 channels.
inline void step_on(__m512i (&sums)[2][kRows], const std::uint8_t* f, std::int64_t next_panel, const std::int8_t* p) {
    const __m512i f0 = _mm512_loadu_si512(f), f1 = _mm512_loadu_si512(f + next_panel);
    for (int i = 0; i < kRows; ++i) {
        std::int32_t four;
        __builtin_memcpy(&four, p + i * kStep, 4);
        const __m512i row = _mm512_set1_epi32(four);
        sums[0][i] = _mm512_dpbusd_epi32(sums[0][i], f0, row);
        sums[1][i] = _mm512_dpbusd_epi32(sums[1][i], f1, row);
    }
}

void minima(const Int8Screen& s) {
    const std::int64_t row_of_tiles = s.steps * kTileBytes;
    for (std::int64_t block = s.begin; block < s.end; ++block)
        for (std::int64_t feature = 0; feature < s.features; feature += kInt8Group) {
            const __m512 scale0 = scale_of(s, feature, block), scale1 = scale_of(s, feature + kFeatures, block);
            __m512 least0 = _mm512_set1_ps(__builtin_inff()), least1 = least0;
            for (int half = 0; half < kBlock; half += kRows) {
                __m512i sums[2][kRows];
                for (int i = 0; i < kRows; ++i)
                    sums[0][i] = sums[1][i] = _mm512_set1_epi32(s.blocks.bias[block * kBlock + half + i]);
                const std::int8_t* p = s.blocks.tiles + block * row_of_tiles + half * kStep;
                const std::uint8_t* f = s.panels + feature / kFeatures * row_of_tiles;
                for (std::int64_t step = 0; step < s.steps; ++step, p += kTileBytes, f += kTileBytes)
                    for (int four = 0; four < kStep / 4; ++four)
                        step_on(sums, f + four * kStep, row_of_tiles, p + four * 4);
                const float* offset = s.blocks.offset + block * kBlock + half;
                least0 = smallest<kRows>(sums[0], offset, scale0, least0);
                least1 = smallest<kRows>(sums[1], offset, scale1, least1);
            }
            float* to = s.minima + (block - s.begin) * s.features + feature;
            _mm512_storeu_ps(to, least0);
            _mm512_storeu_ps(to + kFeatures, least1);
        }
}

constexpr bool kSigned = false;

#endif

}  // namespace

extern const Int8Kernels kInt8Kernels{kSigned, &minima, &dots};

}  // namespace VSAD_ISA
}  // namespace vsad
