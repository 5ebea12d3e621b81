// Screening on Hopper: products of warpgroups, fed by TMA.
//
// A block has a warp that copies, and two warpgroups that multiply 64 features each by the same 256 prototypes. The
// second follows the first at a distance, so that while one looks through its sums the tensor cores work for the other.
#include "cuda/prototype_distance_select.h"
#include "cuda/ptx_hopper.h"

namespace vsad {
namespace cuda {
namespace {

constexpr int kGroup = 128, kConsumers = 2, kThreads = (kConsumers + 1) * kGroup;
constexpr int kTile = kTilePrototypes;
constexpr int kLists = 4;  // lanes
constexpr int kRowBytes = kTileRows * kSlice, kPrototypeBytes = kTile * kSlice, kOffsetBytes = kTile * 4;
constexpr int kMostStages = 8, kLeastResident = 3;  // stages beside rows that stay
constexpr int kMostShared = 227 * 1024, kBarrierBytes = 256;
constexpr int kLag = 2;  // slices

struct Maps {
    TileMap features, prototypes;
};

struct Barriers {
    Barrier full[kMostStages], empty[kMostStages], rows_full, rows_empty, lead;
};
static_assert(sizeof(Barriers) <= kBarrierBytes, "barriers");

// How shared memory is shared out: rows that stay for an item if they fit, a ring of stages, a ring of offsets.
struct Ring {
    int slices, stages, slots;  // slices of a row
    bool resident;

    // A slot is filled again when its tile's last stage has been, and every reader is past the tile before.
    __host__ __device__ int slots_for(int n) const { return (n + slices - 1) / slices + 1; }
    __host__ __device__ int stage_bytes() const { return kPrototypeBytes + (resident ? 0 : kRowBytes); }
    __host__ __device__ int bytes(int n) const {
        return (resident ? slices * kRowBytes : 0) + n * stage_bytes() + slots_for(n) * kOffsetBytes + kBarrierBytes;
    }
    __host__ __device__ explicit Ring(std::int64_t width)
        : slices(static_cast<int>(width / kSlice)), stages(kMostStages), resident(true) {
        resident = bytes(kLeastResident) <= kMostShared;
        while (bytes(stages) > kMostShared) --stages;
        slots = slots_for(stages);
    }
};

struct Memory {
    unsigned char *rows, *stages;
    float* offsets;
    Barriers* barriers;

    __device__ __forceinline__ explicit Memory(const Ring& ring)
        : rows(dynamic_shared()),
          stages(rows + (ring.resident ? ring.slices * kRowBytes : 0)),
          offsets(reinterpret_cast<float*>(stages + ring.stages * ring.stage_bytes())),
          barriers(reinterpret_cast<Barriers*>(offsets + ring.slots * kTile)) {}
};

// Where a ring stands; `parity` changes with every round.
struct Turn {
    int place = 0, parity = 0;
    __device__ __forceinline__ void next(int size) {
        if (++place == size) place = 0, parity ^= 1;
    }
};

struct Item {
    int row, first, tiles;
    __device__ __forceinline__ Item(int item, const Cut& c, int all_tiles)
        : row(item % c.row_tiles * kTileRows),
          first(item / c.row_tiles * c.tiles),
          tiles(min(c.tiles, all_tiles - first)) {}
};

// One thread.
__device__ __forceinline__ void produce(const Maps& maps, const float* offset, const Ring& ring, const Memory& memory,
                                        const Cut& c, int all_tiles) {
    Barriers& barriers = *memory.barriers;
    Turn turn, rows;
    int slot = 0;
    for (int i = blockIdx.x; i < c.row_tiles * c.segments; i += gridDim.x) {
        const Item item(i, c, all_tiles);
        if (ring.resident) {
            barrier_wait(&barriers.rows_empty, rows.parity ^ 1);
            barrier_expect(&barriers.rows_full, ring.slices * kRowBytes);
            for (int slice = 0; slice < ring.slices; ++slice)
                copy_tile(memory.rows + slice * kRowBytes, maps.features, slice * kSlice, item.row,
                          &barriers.rows_full);
            rows.next(1);
        }
        for (int tile = item.first; tile < item.first + item.tiles; ++tile) {
            for (int slice = 0; slice < ring.slices; ++slice) {
                Barrier* full = &barriers.full[turn.place];
                unsigned char* stage = memory.stages + turn.place * ring.stage_bytes();
                barrier_wait(&barriers.empty[turn.place], turn.parity ^ 1);
                barrier_expect(full, ring.stage_bytes() + (slice == 0 ? kOffsetBytes : 0));
                if (slice == 0)
                    copy_bytes(memory.offsets + slot * kTile, offset + std::int64_t(tile) * kTile, kOffsetBytes, full);
                copy_tile(stage, maps.prototypes, slice * kSlice, tile * kTile, full);
                if (!ring.resident)
                    copy_tile(stage + kPrototypeBytes, maps.features, slice * kSlice, item.row, full);
                turn.next(ring.stages);
            }
            if (++slot == ring.slots) slot = 0;
        }
    }
}

// What a thread finds in its sums of a tile: two rows, 64 columns each.
template <Format format, int kept, typename T>
__device__ __forceinline__ void look_through(Nearest<kept> (&nearest)[2], const Margin (&margin)[2],
                                             const T (&sum)[128], const float* offsets, int column, int k, bool first) {
    bool took = false;
    unrolled<4>([&](auto chunk) {
        float v[2][kChunk];
#pragma unroll
        for (int j = 0; j < kChunk / 2; ++j) {
            const float2 offset = *reinterpret_cast<const float2*>(offsets + (chunk * kChunk / 2 + j) * 8);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int at = (chunk * kChunk / 2 + j) * 4 + i * 2;
                v[i][2 * j] = screened<format>(margin[i].factor, offset.x, sum[at]);
                v[i][2 * j + 1] = screened<format>(margin[i].factor, offset.y, sum[at + 1]);
            }
        }
        const float least[2] = {least_of(v[0]), least_of(v[1])};
        if (first && k == 1)  // says what is far, which spares taking most of it
            unrolled<2>([&](auto i) { nearest[i].lower(margin[i].needed(least_of_four(least[i]))); });
        if (least[0] < nearest[0].limit || least[1] < nearest[1].limit) {
            took = true;
            unrolled<2>([&](auto i) { nearest[i].take(v[i], least[i], column + chunk * 64); });
        }
    });
    if (__any_sync(kWarp, took)) unrolled<2>([&](auto i) { tighten(nearest[i], margin[i], k); });
}

template <Format format, int kept>
__device__ __forceinline__ void consume(const DistanceArguments& a, const Ring& ring, const Memory& memory,
                                        const Cut& c, int all_tiles) {
    Barriers& barriers = *memory.barriers;
    const int group = threadIdx.x / kGroup, lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
    const int k = static_cast<int>(a.k);
    const auto release = [&](Barrier* barrier) {
        if (lane == 0) barrier_arrive(barrier);
    };
    Turn turn, rows;
    int slot = 0;
    typename Sum<format>::type sum[128];
    for (int i = blockIdx.x; i < c.row_tiles * c.segments; i += gridDim.x) {
        const Item item(i, c, all_tiles);
        Margin margin[2];
        Nearest<kept> nearest[2];
        unrolled<2>([&](auto n) {
            margin[n].start(format, a.work.terms[item.row + row + n * 8], *a.bank.stats, a.C);
            nearest[n].start(margin[n].limit);
        });
        if (ring.resident) barrier_wait(&barriers.rows_full, rows.parity);
        if (group == 1) barrier_wait(&barriers.lead, rows.parity);
        const int lag = min(kLag, item.tiles * ring.slices);
        int step = 0;
        for (int tile = 0; tile < item.tiles; ++tile) {
            Barrier* last = nullptr;
            for (int slice = 0; slice < ring.slices; ++slice) {
                const unsigned char* stage = memory.stages + turn.place * ring.stage_bytes();
                const unsigned char* features =
                    ring.resident ? memory.rows + slice * kRowBytes : stage + kPrototypeBytes;
                const std::uint64_t x = operand(features + group * (kRowBytes / 2)), y = operand(stage);
                barrier_wait(&barriers.full[turn.place], turn.parity);
                products_begin();
#pragma unroll
                for (int part = 0; part < kSlice / 32; ++part)
                    multiply(sum, x + part * 2, y + part * 2, slice + part > 0);
                products_commit();
                if (last) {
                    products_wait<1>();
                    release(last);
                }
                last = &barriers.empty[turn.place];
                turn.next(ring.stages);
                if (++step == lag && threadIdx.x == 0) barrier_arrive(&barriers.lead);
            }
            products_wait<0>();
            release(last);
            const int column = (item.first + tile) * kTile + lane % 4 * 2;
            look_through<format>(nearest, margin, sum, memory.offsets + slot * kTile + lane % 4 * 2, column, k,
                                 tile == 0);
            if (++slot == ring.slots) slot = 0;
        }
        if (ring.resident) release(&barriers.rows_empty);
        rows.next(1);
        unrolled<2>([&](auto n) {
            const std::int64_t list = (i * std::int64_t(kTileRows) + row + n * 8) * kLists + lane % 4;
            nearest[n].store(a.work.entries + list * kept, a.work.bound + list);
        });
    }
}

template <Format format, int kept>
__global__ void __launch_bounds__(kThreads, 1)
    screen_kernel(const __grid_constant__ DistanceArguments a, const __grid_constant__ Maps maps, const Rows rows,
                  const Shape shape) {
#if defined(VSAD_SM90A)
    const Ring ring(a.bank.coded[int(format)].width);
    const Memory memory(ring);
    const Cut c = cut(count_of(rows), a.P, shape, a.k);
    const int all_tiles = static_cast<int>((a.P + kTile - 1) / kTile);
    if (threadIdx.x == 0) {
        Barriers& barriers = *memory.barriers;
        for (int i = 0; i < ring.stages; ++i) {
            barrier_start(&barriers.full[i], 1);
            barrier_start(&barriers.empty[i], kConsumers * kGroup / 32);
        }
        barrier_start(&barriers.rows_full, 1);
        barrier_start(&barriers.rows_empty, kConsumers * kGroup / 32);
        barrier_start(&barriers.lead, 1);
        barrier_publish();
    }
    __syncthreads();
    if (threadIdx.x / kGroup == kConsumers) {
        fewer_registers<24>();
        if (threadIdx.x == kConsumers * kGroup)
            produce(maps, a.bank.coded[int(format)].offset, ring, memory, c, all_tiles);
    } else {
        more_registers<240>();
        consume<format, kept>(a, ring, memory, c, all_tiles);
    }
#endif
}

template <Format format, int kept>
void run(const DistanceArguments& a, const Rows& rows, cudaStream_t stream) {
    const Coded& coded = a.bank.coded[int(format)];
    const Maps maps{make_tile_map(a.work.codes, round_up(a.M, kTileRows), coded.width, kTileRows),
                    make_tile_map(coded.codes, a.bank.rows, coded.width, kTile)};
    const Shape shape = shape_wgmma(format, a.k);
    const Ring ring(coded.width);
    launch(screen_kernel<format, kept>, dim3(shape.blocks), dim3(kThreads), ring.bytes(ring.stages), stream, a, maps,
           rows, shape);
}

}  // namespace

Shape shape_wgmma(Format format, std::int64_t k) {
    const int kept = format == Format::bfloat16 && k <= 2 ? 4 : 8;
    return {kTile, kLists, kept, resident_blocks(screen_kernel<Format::bfloat16, 8>, kThreads, kMostShared)};
}

void screen_wgmma(const DistanceArguments& a, Format format, const Rows& rows, cudaStream_t stream) {
    if (format == Format::int8) return run<Format::int8, 8>(a, rows, stream);
    a.k <= 2 ? run<Format::bfloat16, 4>(a, rows, stream) : run<Format::bfloat16, 8>(a, rows, stream);
}

}  // namespace cuda
}  // namespace vsad
