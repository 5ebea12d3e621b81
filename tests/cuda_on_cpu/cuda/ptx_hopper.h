// csrc/cuda/ptx_hopper.h for the emulator. Copies happen at once, into stages that must be free; products happen as
// late as they may, from stages that must still be what they were.
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

// Arrivals that the phase still lacks, the phase's parity, the arrivals of a phase, bytes that are still to come.
struct Barrier {
    std::int16_t missing;
    std::uint8_t phase, count;
    std::int32_t bytes;

    void settle() {
        if (missing > 0 || bytes != 0) return;  // bytes may come before they are expected
        phase ^= 1;
        missing = count;
    }
};
static_assert(sizeof(Barrier) == 8, "as on the device");

inline void barrier_start(Barrier* barrier, int count) {
    *barrier = {static_cast<std::int16_t>(count), 0, static_cast<std::uint8_t>(count), 0};
}
inline void barrier_publish() {}
inline void barrier_arrive(Barrier* barrier) {
    if (--barrier->missing < 0) throw std::logic_error("barrier_arrive: more arrivals than the phase takes");
    barrier->settle();
}
inline void barrier_expect(Barrier* barrier, int bytes) {
    barrier->bytes += bytes;
    barrier_arrive(barrier);
}
inline void barrier_complete(Barrier* barrier, int bytes) {
    barrier->bytes -= bytes;
    barrier->settle();
}
inline void barrier_wait(Barrier* barrier, int parity) {
    emulator::wait("barrier_wait", [=] { return barrier->phase != parity; });
}

// Runs the blocks of a cluster side by side, the clusters one after the other.
template <typename... Parameters, typename... Arguments>
void launch_cluster(void (*kernel)(Parameters...), int cluster, dim3 grid, dim3 block, std::size_t shared, cudaStream_t,
                    const Arguments&... arguments) {
    if (grid.x % cluster) throw std::logic_error("launch_cluster: the grid is not made of whole clusters");
    emulator::run(grid, block, shared, false, [&] { kernel(arguments...); }, cluster);
}
inline int cluster_rank() { return static_cast<int>(emulator::self().block - emulator::self().block->first); }
inline void cluster_sync() {
    const emulator::Block& first = *emulator::self().block->first;
    emulator::meet(emulator::current().barrier, first.threads * first.together, "cluster_sync");
}
// The same place in the shared memory of another block of the cluster.
template <typename T>
T* place_in(T* shared, int rank) {
    const emulator::Block& mine = *emulator::self().block;
    const auto at = reinterpret_cast<unsigned char*>(shared) - mine.shared;
    return reinterpret_cast<T*>(mine.first[rank].shared + at);
}
inline void barrier_arrive_at(Barrier* barrier, int rank) { barrier_arrive(place_in(barrier, rank)); }

inline void copy_tile(void* shared, const TileMap& map, int byte, int row, Barrier* barrier) {
    if (reinterpret_cast<std::uintptr_t>(shared) % 1024) throw std::logic_error("copy_tile: not aligned");
    for (int r = 0; r < map.box; ++r)
        for (int chunk = 0; chunk < 8; ++chunk) {
            unsigned char* to = static_cast<unsigned char*>(shared) + r * 128 + (chunk ^ (r % 8)) * 16;
            const std::int64_t from = byte + chunk * 16;
            if (row + r < map.rows && from < map.row_bytes)
                std::memcpy(to, map.data + (row + r) * map.row_bytes + from, 16);
            else
                std::memset(to, 0, 16);
        }
    barrier_complete(barrier, map.box * 128);
}
inline void copy_tile_to_both(void* shared, const TileMap& map, int byte, int row, Barrier* barrier) {
    for (int rank = 0; rank < 2; ++rank)
        copy_tile(place_in(static_cast<unsigned char*>(shared), rank), map, byte, row, place_in(barrier, rank));
}
inline void copy_bytes(void* shared, const void* global, int bytes, Barrier* barrier) {
    if ((reinterpret_cast<std::uintptr_t>(shared) | reinterpret_cast<std::uintptr_t>(global) | bytes) % 16)
        throw std::logic_error("copy_bytes: not aligned");
    std::memcpy(shared, global, bytes);
    barrier_complete(barrier, bytes);
}

template <typename T>
T opaque(T v) {
    return v;
}

template <int count>
void more_registers() {}
template <int count>
void fewer_registers() {}

// Offset in shared memory, as on the device.
inline std::uint64_t operand(const void* shared) {
    const auto at = static_cast<const unsigned char*>(shared) - emulator::self().block->shared;
    if (at < 0 || at >= 1 << 18 || at % 1024) throw std::logic_error("operand: must start at 1024 bytes");
    return static_cast<std::uint64_t>(at) >> 4;
}

inline void products_begin() {}
inline void products_commit() {
    emulator::Thread& me = emulator::self();
    me.product_groups.push_back(std::move(me.products));
    me.products.clear();
}
template <int n>
void products_wait() {
    auto& groups = emulator::self().product_groups;
    for (; groups.size() > n; groups.pop_front())
        for (auto& product : groups.front()) product();
    emulator::meet_warp(0xffffffffu, 0, "products_wait");  // a warp waits as one: none of its lanes goes ahead
}

template <typename T>
void products_settle(T (&)[128]) {}

// 32 bytes from `start` (in units of 16, within an atom of 1024 bytes) of a row, swizzled.
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
void multiply(T (&sum)[128], std::uint64_t a, std::uint64_t b, bool adds) {
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
