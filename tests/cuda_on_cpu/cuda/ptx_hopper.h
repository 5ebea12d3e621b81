// Replaces csrc/cuda/ptx_hopper.h in the emulator. Copies happen immediately, which shows stages that are still being
// read; products happen as late as they may, which shows stages that are overwritten too early.
#pragma once
#include "cuda/launch.h"

namespace vsad {
namespace cuda {

struct TileMap {
    const unsigned char* data;
    std::int64_t rows, row_bytes;
    int box;
};

inline TileMap make_tile_map(const void* data, std::int64_t rows, std::int64_t row_bytes, int box) {
    if (reinterpret_cast<std::uintptr_t>(data) % 16 || row_bytes % 16 || box > 256)
        throw std::logic_error("make_tile_map: not what a tensor map holds");
    return {static_cast<const unsigned char*>(data), rows, row_bytes, box};
}

struct Barrier {
    std::int16_t missing;  // arrivals that the phase still needs
    std::uint8_t phase;    // parity of the phase
    std::uint8_t count;    // arrivals per phase
    std::int32_t bytes;    // bytes that must still arrive

    void settle() {
        if (missing > 0 || bytes != 0) return;  // bytes may come before they are expected
        phase ^= 1;
        missing = count;
    }
};
static_assert(sizeof(Barrier) == 8, "as on the device");

inline void mbarrier_init(Barrier* barrier, int count) {
    *barrier = {static_cast<std::int16_t>(count), 0, static_cast<std::uint8_t>(count), 0};
}
inline void mbarrier_fence_init() {}
inline void mbarrier_arrive(Barrier* barrier) {
    if (--barrier->missing < 0) throw std::logic_error("mbarrier_arrive: more arrivals than the phase takes");
    barrier->settle();
}
inline void mbarrier_arrive_expect(Barrier* barrier, int bytes) {
    barrier->bytes += bytes;
    mbarrier_arrive(barrier);
}
inline void mbarrier_complete_tx(Barrier* barrier, int bytes) {
    barrier->bytes -= bytes;
    barrier->settle();
}
inline void mbarrier_wait(Barrier* barrier, int parity) {
    emulator::wait("mbarrier_wait", [=] { return barrier->phase != parity; });
}

// Runs the blocks of a cluster concurrently, and the clusters one after the other.
template <typename... Parameters, typename... Arguments>
void launch_cluster(void (*kernel)(Parameters...), int cluster, dim3 grid, dim3 block, std::size_t shared, cudaStream_t,
                    const Arguments&... arguments) {
    if (grid.x % cluster) throw std::logic_error("launch_cluster: the grid is not a multiple of the cluster");
    emulator::run(grid, block, shared, false, [&] { kernel(arguments...); }, cluster);
}
inline int cluster_rank() { return static_cast<int>(emulator::self().block - emulator::self().block->first); }
inline void cluster_sync() {
    const emulator::Block& first = *emulator::self().block->first;
    emulator::meet(emulator::current().barrier, first.threads * first.together, "cluster_sync");
}
// The same address in the shared memory of another block of the cluster.
template <typename T>
T* place_in(T* shared, int rank) {
    const emulator::Block& mine = *emulator::self().block;
    const auto at = reinterpret_cast<unsigned char*>(shared) - mine.shared;
    return reinterpret_cast<T*>(mine.first[rank].shared + at);
}
inline void mbarrier_arrive_remote(Barrier* barrier, int rank) { mbarrier_arrive(place_in(barrier, rank)); }

inline void tma_load(void* shared, const TileMap& map, int byte, int row, Barrier* barrier) {
    if (reinterpret_cast<std::uintptr_t>(shared) % 1024) throw std::logic_error("tma_load: not aligned");
    for (int r = 0; r < map.box; ++r)
        for (int chunk = 0; chunk < 8; ++chunk) {
            unsigned char* to = static_cast<unsigned char*>(shared) + r * 128 + (chunk ^ (r % 8)) * 16;
            const std::int64_t from = byte + chunk * 16;
            if (row + r < map.rows && from < map.row_bytes)
                std::memcpy(to, map.data + (row + r) * map.row_bytes + from, 16);
            else
                std::memset(to, 0, 16);
        }
    mbarrier_complete_tx(barrier, map.box * 128);
}
inline void tma_load_to_both(void* shared, const TileMap& map, int byte, int row, Barrier* barrier) {
    for (int rank = 0; rank < 2; ++rank)
        tma_load(place_in(static_cast<unsigned char*>(shared), rank), map, byte, row, place_in(barrier, rank));
}
inline void bulk_load(void* shared, const void* global, int bytes, Barrier* barrier) {
    if ((reinterpret_cast<std::uintptr_t>(shared) | reinterpret_cast<std::uintptr_t>(global) | bytes) % 16)
        throw std::logic_error("bulk_load: not aligned");
    std::memcpy(shared, global, bytes);
    mbarrier_complete_tx(barrier, bytes);
}

template <typename T>
T opaque(T v) {
    return v;
}

template <int count>
void setmaxnreg_inc() {}
template <int count>
void setmaxnreg_dec() {}

// The offset in shared memory in units of 16 bytes, as on the device.
inline std::uint64_t wgmma_descriptor(const void* shared) {
    const auto at = static_cast<const unsigned char*>(shared) - emulator::self().block->shared;
    if (at < 0 || at >= 1 << 18 || at % 1024) throw std::logic_error("operand: must start at 1024 bytes");
    return static_cast<std::uint64_t>(at) >> 4;
}

inline void wgmma_fence() {}
inline void wgmma_commit() {
    emulator::Thread& me = emulator::self();
    me.product_groups.push_back(std::move(me.products));
    me.products.clear();
}
template <int n>
void wgmma_wait() {
    auto& groups = emulator::self().product_groups;
    for (; groups.size() > n; groups.pop_front())
        for (auto& product : groups.front()) product();
    emulator::meet_warp(0xffffffffu, 0, "wgmma_wait");  // the wait is warp-wide: no lane continues before the others
}

template <typename T>
void wgmma_settle(T (&)[128]) {}

// Reads 32 swizzled bytes of a row from `start`, an offset in units of 16 bytes within an atom of 1024 bytes.
inline void swizzled_row(unsigned char (&to)[32], std::uint64_t start, int row) {
    const unsigned char* base = emulator::self().block->shared + (start & ~std::uint64_t(63)) * 16 + row * 128;
    for (int i = 0; i < 2; ++i) std::memcpy(to + i * 16, base + (((start & 7) + i) ^ (row % 8)) * 16, 16);
}

inline float dot(const unsigned char* a, const unsigned char* b, float) {
    float sum = 0, x, y;
    for (int i = 0; i < 32; i += 2) {
        const unsigned p = (a[i] | a[i + 1] << 8u) << 16u, q = (b[i] | b[i + 1] << 8u) << 16u;
        std::memcpy(&x, &p, 4), std::memcpy(&y, &q, 4);
        sum += x * y;
    }
    return sum;
}
inline int dot(const unsigned char* a, const unsigned char* b, int) {
    int sum = 0;
    for (int i = 0; i < 32; ++i) sum += static_cast<signed char>(a[i]) * static_cast<signed char>(b[i]);
    return sum;
}

template <typename T>
void wgmma(T (&sum)[128], std::uint64_t a, std::uint64_t b, bool adds) {
    const auto product = [&sum, a, b, adds] {
        const int lane = emulator::lane(), warp = emulator::self().linear / 32 % 4;
        unsigned char rows[2][32], column[32];
        for (int i = 0; i < 2; ++i) swizzled_row(rows[i], a, 16 * warp + lane / 4 + 8 * i);
        for (int n = 0; n < 64; ++n) {
            swizzled_row(column, b, n / 2 * 8 + lane % 4 * 2 + n % 2);
            for (int i = 0; i < 2; ++i) {
                T& to = sum[n / 2 * 4 + i * 2 + n % 2];
                to = (adds ? to : 0) + dot(rows[i], column, T());
            }
        }
    };
    if (emulator::at_once())
        product();
    else
        emulator::self().products.push_back(product);
}

}  // namespace cuda
}  // namespace vsad
