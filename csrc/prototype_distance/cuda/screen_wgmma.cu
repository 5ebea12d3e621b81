// Screening on Hopper: warpgroup products fed by TMA.
//
// A block has one warp that copies, and two warpgroups that each multiply 64 features by the same 256 prototypes. The
// second warpgroup lags behind the first, so that the tensor cores work for one while the other selects candidates. The
// features of a row tile stay in shared memory where they fit, up to C = 512 in bfloat16 or 1024 in int8; longer rows
// are copied again with every tile of prototypes. The two blocks of a cluster share the copies of the prototypes.
#include "cuda/ptx_hopper.h"
#include "prototype_distance/cuda/candidates.h"

namespace vsad {
namespace cuda {
namespace prototype_distance {
namespace {

constexpr int kGroup = 128, kConsumers = 2, kThreads = (kConsumers + 1) * kGroup;
constexpr int kTile = kTilePrototypes;
constexpr int kLists = 4;  // per feature: the 4 lanes that share it
constexpr int kRowBytes = kTileRows * kSliceBytes, kPrototypeBytes = kTile * kSliceBytes, kOffsetBytes = kTile * 4;
constexpr int kMostStages = 8;
constexpr int kLeastResident = 3;  // stages that must fit beside the features for these to stay in shared memory
constexpr int kMostShared = 227 * 1024, kBarrierBytes = 256;

struct Maps {
    TileMap features, prototypes;  // the latter in the parts of a tile that one block of a cluster copies
};

struct Barriers {
    Barrier full[kMostStages], empty[kMostStages], rows_full, rows_empty, lead;
};
static_assert(sizeof(Barriers) <= kBarrierBytes, "barriers");

// The layout of shared memory: the features of an item if they fit, a ring of stages, a ring of offset slots.
struct Layout {
    int slices;  // slices of a row
    int stages, slots;
    bool resident;  // whether the features of an item stay in shared memory

    // A slot is filled again once its tile's last stage was filled and every reader is past the tile before.
    __host__ __device__ int slots_for(int n) const { return (n + slices - 1) / slices + 1; }
    __host__ __device__ int stage_bytes() const { return kPrototypeBytes + (resident ? 0 : kRowBytes); }
    __host__ __device__ int bytes(int n) const {
        return (resident ? slices * kRowBytes : 0) + n * stage_bytes() + slots_for(n) * kOffsetBytes + kBarrierBytes;
    }
    __host__ __device__ explicit Layout(std::int64_t width)
        : slices(static_cast<int>(width / kSliceBytes)), stages(kMostStages), resident(true) {
        resident = bytes(kLeastResident) <= kMostShared;
        while (bytes(stages) > kMostShared) --stages;
        slots = slots_for(stages);
    }
};

struct Memory {
    unsigned char *rows, *stages;
    float* offsets;
    Barriers* barriers;

    __device__ __forceinline__ explicit Memory(const Layout& layout)
        : rows(dynamic_shared()),
          stages(rows + (layout.resident ? layout.slices * kRowBytes : 0)),
          offsets(reinterpret_cast<float*>(stages + layout.stages * layout.stage_bytes())),
          barriers(reinterpret_cast<Barriers*>(offsets + layout.slots * kTile)) {}
};

#if defined(VSAD_SM90A) || !defined(__CUDA_ARCH__)

constexpr int kLag = 2;  // slices by which the second warpgroup is behind the first

// What producer and consumers share: the layout, the memory, and how the bank is split.
struct Block {
    Layout layout;
    Memory memory;
    Schedule schedule;
    int all_tiles;

    __device__ __forceinline__ Block(const DistanceArguments& a, Format format, const FeatureList& features,
                                     const ScreenShape& shape)
        : layout(a.bank.quantized[int(format)].width),
          memory(layout),
          schedule(prototype_distance::schedule(count_of(features), a.P, shape, a.k)),
          all_tiles(static_cast<int>((a.P + kTile - 1) / kTile)) {}
};

// A position in a ring; its parity changes with every round, as a barrier's phase does.
struct RingPosition {
    int place = 0, parity = 0;
    __device__ __forceinline__ void advance(int size) {
        if (++place == size) place = 0, parity ^= 1;
    }
};

// A row tile against a split of the bank. The blocks of a cluster have consecutive row tiles, of which the last may not
// exist: its block then only takes part in copying.
struct Item {
    int number, row, first, tiles;
    bool exists;

    __device__ __forceinline__ Item(int cluster_item, int cluster_tiles, const Block& b, int cluster, int rank) {
        const int row_tile = cluster_item % cluster_tiles * cluster + rank, split = cluster_item / cluster_tiles;
        exists = row_tile < b.schedule.row_tiles;
        number = split * b.schedule.row_tiles + row_tile;
        row = row_tile * kTileRows;
        first = split * b.schedule.tiles;
        tiles = min(b.schedule.tiles, b.all_tiles - first);
    }
};

// Calls f(item) for all items of this block.
template <int cluster, typename F>
__device__ __forceinline__ void for_each_item(const Block& b, F f) {
    const int rank = cluster > 1 ? cluster_rank() : 0;
    const int cluster_tiles = (b.schedule.row_tiles + cluster - 1) / cluster;
    for (int i = blockIdx.x / cluster; i < cluster_tiles * b.schedule.splits; i += gridDim.x / cluster)
        f(Item(i, cluster_tiles, b, cluster, rank));
}

// Copies what the consumers of all items read; called by one thread. Each block of a cluster copies its share of a tile
// of prototypes to all of them.
template <int cluster>
__device__ __forceinline__ void produce(const Maps& maps, const float* offset, const Block& b) {
    const Layout& layout = b.layout;
    const Memory& memory = b.memory;
    Barriers& barriers = *memory.barriers;
    RingPosition ring, rows;
    int slot = 0;
    const int share = kTile / cluster, rank = cluster > 1 ? cluster_rank() : 0;
    for_each_item<cluster>(b, [&](const Item& item) {
        if (layout.resident) {
            mbarrier_wait(&barriers.rows_empty, rows.parity ^ 1);
            mbarrier_arrive_expect(&barriers.rows_full, layout.slices * kRowBytes);
            for (int slice = 0; slice < layout.slices; ++slice)
                tma_load(memory.rows + slice * kRowBytes, maps.features, slice * kSliceBytes, item.row,
                         &barriers.rows_full);
            rows.advance(1);
        }
        for (int tile = item.first; tile < item.first + item.tiles; ++tile) {
            for (int slice = 0; slice < layout.slices; ++slice) {
                Barrier* full = &barriers.full[ring.place];
                unsigned char* stage = memory.stages + ring.place * layout.stage_bytes();
                const int byte = slice * kSliceBytes;
                mbarrier_wait(&barriers.empty[ring.place], ring.parity ^ 1);
                mbarrier_arrive_expect(full, layout.stage_bytes() + (slice == 0 ? kOffsetBytes : 0));
                if (slice == 0)
                    bulk_load(memory.offsets + slot * kTile, offset + std::int64_t(tile) * kTile, kOffsetBytes, full);
                if constexpr (cluster > 1)
                    tma_load_to_both(stage + rank * share * kSliceBytes, maps.prototypes, byte,
                                     tile * kTile + rank * share, full);
                else
                    tma_load(stage, maps.prototypes, byte, tile * kTile, full);
                if (!layout.resident) tma_load(stage + kPrototypeBytes, maps.features, byte, item.row, full);
                ring.advance(layout.stages);
            }
            if (++slot == layout.slots) slot = 0;
        }
    });
}

// The smallest values of a chunk of a thread's sums: of two rows, 16 columns each.
template <Format format, typename T, int chunk>
__device__ __forceinline__ void least_of_chunk(float (&least)[2], const Margin (&margin)[2], const T (&sum)[128],
                                               const float* offsets, Constant<chunk>) {
    least[0] = least[1] = kInfinity;
#pragma unroll
    for (int j = chunk * 8; j < chunk * 8 + 8; ++j) {
        const float2 offset = *reinterpret_cast<const float2*>(offsets + j * 8);
        unrolled<2>([&](auto i) {
            least[i] = fminf(least[i], fminf(screened<format>(margin[i].factor, offset.x, sum[j * 4 + i * 2]),
                                             screened<format>(margin[i].factor, offset.y, sum[j * 4 + i * 2 + 1])));
        });
    }
}

// Lowers the limits to what the first tile tells, which avoids inserting most of it: the four lanes of a feature have
// 16 chunks, whose smallest values are 16 values of the bank, so the largest of them bounds the 16th nearest.
template <Format format, int kept, typename T>
__device__ __forceinline__ void lower_limits(CandidateList<kept> (&lists)[2], const Margin (&margin)[2],
                                             const T (&sum)[128], const float* offsets, int k) {
    constexpr int most = 16;
    if (k > most) return;
    float bound[2] = {k == 1 ? kInfinity : -kInfinity, k == 1 ? kInfinity : -kInfinity};
    unrolled<4>([&](auto chunk) {
        float least[2];
        least_of_chunk<format>(least, margin, sum, offsets, chunk);
        unrolled<2>([&](auto i) { bound[i] = k == 1 ? fminf(bound[i], least[i]) : fmaxf(bound[i], least[i]); });
    });
    unrolled<2>([&](auto i) {
        const float of_feature = k == 1 ? min_across_feature(bound[i]) : -min_across_feature(-bound[i]);
        lists[i].lower_limit(margin[i].limit_for(of_feature));
    });
}

// Selects candidates from a thread's sums of one tile: two rows, 64 columns each.
template <Format format, int kept, typename T>
__device__ __forceinline__ void select(CandidateList<kept> (&lists)[2], const Margin (&margin)[2], const T (&sum)[128],
                                       const float* offsets, int column, int k, bool first_tile) {
    bool took = false;
    if (first_tile) lower_limits<format>(lists, margin, sum, offsets, k);
    unrolled<4>([&](auto chunk) {
        float least[2];
        least_of_chunk<format>(least, margin, sum, offsets, chunk);
        if (!(least[0] < lists[0].limit || least[1] < lists[1].limit)) return;
        took = true;
        // computed again rather than kept from above: registers are scarce
        const float* again = opaque(offsets);
        unrolled<2>([&](auto i) {
            float v[kChunk];
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const float2 offset = *reinterpret_cast<const float2*>(again + (chunk * 8 + j) * 8);
                const int at = (chunk * 8 + j) * 4 + i * 2;
                v[2 * j] = screened<format>(margin[i].factor, offset.x, opaque(sum[at]));
                v[2 * j + 1] = screened<format>(margin[i].factor, offset.y, opaque(sum[at + 1]));
            }
            lists[i].insert_chunk(v, least[i], column + chunk * 64);
        });
    });
    if (__any_sync(kWarp, took)) unrolled<2>([&](auto i) { tighten(lists[i], margin[i], k); });
}

// Frees a stage; it is filled again when all warps of all blocks of the cluster have read it.
template <int cluster>
__device__ __forceinline__ void release(Barrier* empty) {
    const int lane = threadIdx.x % 32;
    if constexpr (cluster > 1) {
        if (lane < cluster) mbarrier_arrive_remote(empty, lane);
    } else if (lane == 0) {
        mbarrier_arrive(empty);
    }
}

// sum = the products of the warpgroup's 64 features and a tile of 256 prototypes. One slice's products are in flight
// while the next one's are issued. `step` counts the item's slices; the first warpgroup lets the second start at `lag`.
template <int cluster, typename T>
__device__ __forceinline__ void multiply_tile(T (&sum)[128], const Block& b, RingPosition& ring, int& step, int lag) {
    Barriers& barriers = *b.memory.barriers;
    const int group = threadIdx.x / kGroup;
    Barrier* last = nullptr;
    for (int slice = 0; slice < b.layout.slices; ++slice) {
        const unsigned char* stage = b.memory.stages + ring.place * b.layout.stage_bytes();
        const unsigned char* features = b.layout.resident ? b.memory.rows + slice * kRowBytes : stage + kPrototypeBytes;
        const std::uint64_t x = wgmma_descriptor(features + group * (kRowBytes / 2)), y = wgmma_descriptor(stage);
        mbarrier_wait(&barriers.full[ring.place], ring.parity);
        wgmma_fence();
#pragma unroll
        for (int part = 0; part < kSliceBytes / 32; ++part) wgmma(sum, x + part * 2, y + part * 2, slice + part > 0);
        wgmma_commit();
        if (last) {
            wgmma_wait<1>();
            release<cluster>(last);
        }
        last = &barriers.empty[ring.place];
        ring.advance(b.layout.stages);
        if (++step == lag && threadIdx.x == 0) mbarrier_arrive(&barriers.lead);
    }
    wgmma_wait<0>();
    wgmma_settle(sum);
    release<cluster>(last);
}

template <Format format, int kept, int cluster>
__device__ __forceinline__ void consume(const DistanceArguments& a, const Block& b) {
    Barriers& barriers = *b.memory.barriers;
    const int group = threadIdx.x / kGroup, lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
    const int k = static_cast<int>(a.k);
    RingPosition ring, rows;
    int slot = 0;
    typename Accumulator<format>::type sum[128];
    for_each_item<cluster>(b, [&](const Item& item) {
        Margin margin[2];
        CandidateList<kept> lists[2];
        unrolled<2>([&](auto n) {
            const QuantizedFeature none{1, 0, 0, kInfinity};
            margin[n].start(format, item.exists ? a.work.features[item.row + row + n * 8] : none, *a.bank.statistics,
                            a.C);
            lists[n].start(margin[n].first_limit());
        });
        if (b.layout.resident) mbarrier_wait(&barriers.rows_full, rows.parity);
        if (group == 1) mbarrier_wait(&barriers.lead, rows.parity);
        const int lag = min(kLag, item.tiles * b.layout.slices);
        int step = 0;
        for (int tile = 0; tile < item.tiles; ++tile) {
            multiply_tile<cluster>(sum, b, ring, step, lag);
            const int column = (item.first + tile) * kTile + lane % 4 * 2;
            const float* offsets = b.memory.offsets + slot * kTile + lane % 4 * 2;
            select<format>(lists, margin, sum, offsets, column, k, tile == 0);
            if (++slot == b.layout.slots) slot = 0;
        }
        if (b.layout.resident && lane == 0) mbarrier_arrive(&barriers.rows_empty);
        rows.advance(1);
        if (!item.exists) return;
        unrolled<2>([&](auto n) {
            const std::int64_t list = (item.number * std::int64_t(kTileRows) + row + n * 8) * kLists + lane % 4;
            lists[n].store(a.work.candidates + list * kept, a.work.bounds + list);
        });
    });
}

template <int cluster>
__device__ __forceinline__ void init_barriers(const Block& b) {
    if (threadIdx.x == 0) {
        Barriers& barriers = *b.memory.barriers;
        for (int i = 0; i < b.layout.stages; ++i) {
            mbarrier_init(&barriers.full[i], 1);
            mbarrier_init(&barriers.empty[i], cluster * kConsumers * kGroup / 32);
        }
        mbarrier_init(&barriers.rows_full, 1);
        mbarrier_init(&barriers.rows_empty, kConsumers * kGroup / 32);
        mbarrier_init(&barriers.lead, 1);
        mbarrier_fence_init();
    }
    if constexpr (cluster > 1)
        cluster_sync();  // before any thread reaches a barrier of another block
    else
        __syncthreads();
}

#endif

template <Format format, int kept, int cluster>
__global__ void __launch_bounds__(kThreads, 1)
    screen_kernel(const __grid_constant__ DistanceArguments a, const __grid_constant__ Maps maps,
                  const FeatureList features, const ScreenShape shape) {
#if defined(VSAD_SM90A)
    const Block b(a, format, features, shape);
    init_barriers<cluster>(b);
    if (threadIdx.x / kGroup == kConsumers) {
        setmaxnreg_dec<40>();
        if (threadIdx.x == kConsumers * kGroup) produce<cluster>(maps, a.bank.quantized[int(format)].offset, b);
    } else {
        setmaxnreg_inc<232>();
        consume<format, kept, cluster>(a, b);
    }
    __syncwarp();
    if constexpr (cluster > 1) cluster_sync();  // others still copy to this block, and arrive at its barriers
#else
    __trap();  // built for another architecture than sm_90a: better no result than a wrong one
#endif
}

template <Format format, int kept, int cluster>
void run(const DistanceArguments& a, const FeatureList& features, cudaStream_t stream) {
    const QuantizedRows& bank = a.bank.quantized[int(format)];
    const Maps maps{make_tile_map(a.work.codes, round_up(a.M, kTileRows), bank.width, kTileRows),
                    make_tile_map(bank.codes, a.bank.rows, bank.width, kTile / cluster)};
    const ScreenShape shape = shape_wgmma(format, a.M, a.k);
    const Layout layout(bank.width);
    const std::size_t shared = layout.bytes(layout.stages);
    launch_cluster(screen_kernel<format, kept, cluster>, cluster, dim3(shape.blocks), dim3(kThreads), shared, stream, a,
                   maps, features, shape);
}

template <int cluster>
void run(const DistanceArguments& a, Format format, const FeatureList& features, cudaStream_t stream) {
    if (format == Format::int8) return run<Format::int8, 4, cluster>(a, features, stream);  // serves small k only
    a.k <= 2 ? run<Format::bfloat16, 4, cluster>(a, features, stream)
             : run<Format::bfloat16, 8, cluster>(a, features, stream);
}

}  // namespace

ScreenShape shape_wgmma(Format format, std::int64_t M, std::int64_t k) {
    const int cluster = M > kTileRows ? 2 : 1, kept = format == Format::int8 || k <= 2 ? 4 : 8;
    const int blocks = resident_blocks(screen_kernel<Format::bfloat16, 8, 1>, kThreads, kMostShared);
    return {kTile, kLists, kept, blocks / cluster * cluster, cluster};
}

void screen_wgmma(const DistanceArguments& a, Format format, const FeatureList& features, cudaStream_t stream) {
    a.M > kTileRows ? run<2>(a, format, features, stream) : run<1>(a, format, features, stream);
}

}  // namespace prototype_distance
}  // namespace cuda
}  // namespace vsad
