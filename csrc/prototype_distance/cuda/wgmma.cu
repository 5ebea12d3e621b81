// Screening on Hopper: products of warpgroups, fed by TMA.
//
// A block has a warp that copies, and two warpgroups that multiply 64 features each by the same 256 prototypes. The
// second follows the first at a distance, so that while one looks through its sums the tensor cores work for the other.
//
// Arithmetic, for an H200 of 132 processors at 1.7 GHz: 4096 bfloat16 FLOP a cycle and processor are 919 TFLOP/s, of
// which 790 have been seen in products of matrices. Of one tile, 128 features x 256 prototypes, in cycles:
//
// | C    | products, at the peak | looking through | copies, bytes      | at 24 bytes a cycle | bound by | TFLOP/s |
// |------|-----------------------|-----------------|--------------------|---------------------|----------|---------|
// | 128  | 2048 (int8: 1024)     | 700 to 900      | 32 K               | 1350                | products | 790     |
// | 512  | 8192 (int8: 4096)     | 700 to 900      | 128 K              | 5350                | products | 790     |
// | 1536 | 24576 (int8: 12288)   | 700 to 900      | 384 K + 384 K rows | 32100               | copies   | 700     |
//
// Looking through: of each of the two warps on a scheduler, 128 values a lane; one addition and one minimum each (the
// latter at half rate), a comparison of 32 of them, 32 loads of offsets: some 350 issue slots, 450 with int8's
// conversions. Copies come from the second-level cache, whose 5.5 TB/s are some 24 bytes a cycle and processor (a
// guess: what it gives decides), so two blocks share what they copy of the bank; rows stay in shared memory up to C =
// 512, or 1024 bytes of int8, and are copied with every tile beyond. All of this overlaps. M = 25,088 and P = 16,384
// are 105, 421 and 1263 GFLOP for the three C: 0.14, 0.54 and 1.8 ms at those rates, and 16 times that for P = 262,144.
// Around it, coding takes 0.02 to 0.15 ms of memory traffic (rows of features and prototypes, read twice), ranking
// some 1.5 rows a feature, 0.01 to 0.1 ms. So 500 to 650 TFLOP/s are to be expected of the whole, less for the smallest
// bank.
#include "cuda/ptx_hopper.h"
#include "prototype_distance/cuda/select.h"

namespace vsad {
namespace cuda {
namespace {

constexpr int kGroup = 128, kConsumers = 2, kThreads = (kConsumers + 1) * kGroup;
constexpr int kTile = kTilePrototypes;
constexpr int kLists = 4;  // lanes
constexpr int kRowBytes = kTileRows * kSlice, kPrototypeBytes = kTile * kSlice, kOffsetBytes = kTile * 4;
constexpr int kMostStages = 8, kLeastResident = 3;  // stages beside rows that stay
constexpr int kMostShared = 227 * 1024, kBarrierBytes = 256;

struct Maps {
    TileMap features, prototypes;  // the latter in tiles that a block copies: its share of kTile rows
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

#if defined(VSAD_SM90A) || !defined(__CUDA_ARCH__)

constexpr int kLag = 2;  // slices that the second warpgroup is behind

// Where a ring stands; `parity` changes with every round.
struct Turn {
    int place = 0, parity = 0;
    __device__ __forceinline__ void next(int size) {
        if (++place == size) place = 0, parity ^= 1;
    }
};

// What a block does at a time. The blocks of a cluster have neighbouring row tiles, of which the last may not exist:
// then a block takes part in copying only.
struct Item {
    int number, row, first, tiles;
    bool exists;

    __device__ __forceinline__ Item(int team_item, int team_tiles, const Cut& c, int all_tiles, int cluster, int rank) {
        const int row_tile = team_item % team_tiles * cluster + rank, segment = team_item / team_tiles;
        exists = row_tile < c.row_tiles;
        number = segment * c.row_tiles + row_tile;
        row = row_tile * kTileRows;
        first = segment * c.tiles;
        tiles = min(c.tiles, all_tiles - first);
    }
};

// f(item) for all items of this block.
template <int cluster, typename F>
__device__ __forceinline__ void for_each_item(const Cut& c, int all_tiles, F f) {
    const int rank = cluster > 1 ? cluster_rank() : 0, team_tiles = (c.row_tiles + cluster - 1) / cluster;
    for (int i = blockIdx.x / cluster; i < team_tiles * c.segments; i += gridDim.x / cluster)
        f(Item(i, team_tiles, c, all_tiles, cluster, rank));
}

// One thread. Each block of a cluster copies its share of a tile of prototypes to all of them.
template <int cluster>
__device__ __forceinline__ void produce(const Maps& maps, const float* offset, const Ring& ring, const Memory& memory,
                                        const Cut& c, int all_tiles) {
    Barriers& barriers = *memory.barriers;
    Turn turn, rows;
    int slot = 0;
    const int share = kTile / cluster, rank = cluster > 1 ? cluster_rank() : 0;
    for_each_item<cluster>(c, all_tiles, [&](const Item& item) {
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
                if constexpr (cluster > 1)
                    copy_tile_to_both(stage + rank * share * kSlice, maps.prototypes, slice * kSlice,
                                      tile * kTile + rank * share, full);
                else
                    copy_tile(stage, maps.prototypes, slice * kSlice, tile * kTile, full);
                if (!ring.resident) copy_tile(stage + kPrototypeBytes, maps.features, slice * kSlice, item.row, full);
                turn.next(ring.stages);
            }
            if (++slot == ring.slots) slot = 0;
        }
    });
}

// What a thread finds in its sums of a tile: two rows, 64 columns each.
template <Format format, int kept, typename T>
__device__ __forceinline__ void look_through(Nearest<kept> (&nearest)[2], const Margin (&margin)[2],
                                             const T (&sum)[128], const float* offsets, int column, int k, bool first) {
    bool took = false;
    unrolled<4>([&](auto chunk) {
        float least[2] = {kInfinity, kInfinity};
#pragma unroll
        for (int j = chunk * 8; j < chunk * 8 + 8; ++j) {
            const float2 offset = *reinterpret_cast<const float2*>(offsets + j * 8);
            unrolled<2>([&](auto i) {
                least[i] = fminf(least[i], fminf(screened<format>(margin[i].factor, offset.x, sum[j * 4 + i * 2]),
                                                 screened<format>(margin[i].factor, offset.y, sum[j * 4 + i * 2 + 1])));
            });
        }
        if (first && k == 1)  // says what is far, which spares taking most of it
            unrolled<2>([&](auto i) { nearest[i].lower(margin[i].needed(least_of_four(least[i]))); });
        if (!(least[0] < nearest[0].limit || least[1] < nearest[1].limit)) return;
        took = true;
        const float* again = opaque(offsets);  // so that the values are not kept from above: registers are scarce
        unrolled<2>([&](auto i) {
            float v[kChunk];
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const float2 offset = *reinterpret_cast<const float2*>(again + (chunk * 8 + j) * 8);
                const int at = (chunk * 8 + j) * 4 + i * 2;
                v[2 * j] = screened<format>(margin[i].factor, offset.x, opaque(sum[at]));
                v[2 * j + 1] = screened<format>(margin[i].factor, offset.y, opaque(sum[at + 1]));
            }
            nearest[i].take(v, least[i], column + chunk * 64);
        });
    });
    if (__any_sync(kWarp, took)) unrolled<2>([&](auto i) { tighten(nearest[i], margin[i], k); });
}

template <Format format, int kept, int cluster>
__device__ __forceinline__ void consume(const DistanceArguments& a, const Ring& ring, const Memory& memory,
                                        const Cut& c, int all_tiles) {
    Barriers& barriers = *memory.barriers;
    const int group = threadIdx.x / kGroup, lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
    const int k = static_cast<int>(a.k);
    const auto release = [&](Barrier* barrier) {  // a stage is filled again when all blocks of the cluster have read it
        if constexpr (cluster > 1) {
            if (lane < cluster) barrier_arrive_at(barrier, lane);
        } else if (lane == 0) {
            barrier_arrive(barrier);
        }
    };
    Turn turn, rows;
    int slot = 0;
    typename Sum<format>::type sum[128];
    for_each_item<cluster>(c, all_tiles, [&](const Item& item) {
        Margin margin[2];
        Nearest<kept> nearest[2];
        unrolled<2>([&](auto n) {
            const Terms nowhere{1, 0, 0, kInfinity};
            margin[n].start(format, item.exists ? a.work.terms[item.row + row + n * 8] : nowhere, *a.bank.stats, a.C);
            nearest[n].start(margin[n].limit());
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
            products_settle(sum);
            release(last);
            const int column = (item.first + tile) * kTile + lane % 4 * 2;
            look_through<format>(nearest, margin, sum, memory.offsets + slot * kTile + lane % 4 * 2, column, k,
                                 tile == 0);
            if (++slot == ring.slots) slot = 0;
        }
        if (ring.resident && lane == 0) barrier_arrive(&barriers.rows_empty);
        rows.next(1);
        if (!item.exists) return;
        unrolled<2>([&](auto n) {
            const std::int64_t list = (item.number * std::int64_t(kTileRows) + row + n * 8) * kLists + lane % 4;
            nearest[n].store(a.work.entries + list * kept, a.work.bound + list);
        });
    });
}

#endif

template <Format format, int kept, int cluster>
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
            barrier_start(&barriers.empty[i], cluster * kConsumers * kGroup / 32);
        }
        barrier_start(&barriers.rows_full, 1);
        barrier_start(&barriers.rows_empty, kConsumers * kGroup / 32);
        barrier_start(&barriers.lead, 1);
        barrier_publish();
    }
    if constexpr (cluster > 1)
        cluster_sync();  // before anyone reaches a barrier of another block
    else
        __syncthreads();
    if (threadIdx.x / kGroup == kConsumers) {
        fewer_registers<40>();
        if (threadIdx.x == kConsumers * kGroup)
            produce<cluster>(maps, a.bank.coded[int(format)].offset, ring, memory, c, all_tiles);
    } else {
        more_registers<232>();
        consume<format, kept, cluster>(a, ring, memory, c, all_tiles);
    }
    __syncwarp();
    if constexpr (cluster > 1) cluster_sync();  // others still copy to this block, and arrive at its barriers
#else
    __trap();  // built for another architecture than sm_90a: better no result than a wrong one
#endif
}

template <Format format, int kept, int cluster>
void run(const DistanceArguments& a, const Rows& rows, cudaStream_t stream) {
    const Coded& coded = a.bank.coded[int(format)];
    const Maps maps{make_tile_map(a.work.codes, round_up(a.M, kTileRows), coded.width, kTileRows),
                    make_tile_map(coded.codes, a.bank.rows, coded.width, kTile / cluster)};
    const Shape shape = shape_wgmma(format, a.M, a.k);
    const Ring ring(coded.width);
    const std::size_t shared = ring.bytes(ring.stages);
    launch_cluster(screen_kernel<format, kept, cluster>, cluster, dim3(shape.blocks), dim3(kThreads), shared, stream, a,
                   maps, rows, shape);
}

template <int cluster>
void run(const DistanceArguments& a, Format format, const Rows& rows, cudaStream_t stream) {
    if (format == Format::int8) return run<Format::int8, 8, cluster>(a, rows, stream);
    a.k <= 2 ? run<Format::bfloat16, 4, cluster>(a, rows, stream) : run<Format::bfloat16, 8, cluster>(a, rows, stream);
}

}  // namespace

Shape shape_wgmma(Format format, std::int64_t M, std::int64_t k) {
    const int cluster = M > kTileRows ? 2 : 1, kept = format == Format::bfloat16 && k <= 2 ? 4 : 8;
    const int blocks = resident_blocks(screen_kernel<Format::bfloat16, 8, 1>, kThreads, kMostShared);
    return {kTile, kLists, kept, blocks / cluster * cluster, cluster};
}

void screen_wgmma(const DistanceArguments& a, Format format, const Rows& rows, cudaStream_t stream) {
    a.M > kTileRows ? run<2>(a, format, rows, stream) : run<1>(a, format, rows, stream);
}

}  // namespace cuda
}  // namespace vsad
