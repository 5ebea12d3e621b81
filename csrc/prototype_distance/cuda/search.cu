// Exact nearest prototypes at the speed of tensor cores: how the passes follow one another, and where things lie.
//
// Rows are taken relative to the bank's centre and coded in bfloat16 or int8 (prototype_distance_prepare.cu). Screening
// multiplies the codes and keeps the few prototypes of every row that may be near (prototype_distance_mma.cu,
// _wgmma.cu, _select.h); ranking measures these directly, in float32, and certifies rows (prototype_distance_rank.cu).
// What int8 does not certify is screened again in bfloat16, what that does not certify is measured against the whole
// bank (prototype_distance_brute.cu). How many rows that are stays on the device.
#include "prototype_distance/cuda/kernels.h"

#include <cstring>

#include "prototype_distance/cuda/brute.h"
#include "prototype_distance/cuda/rows.h"

namespace vsad {
namespace cuda {
namespace {

// Launch table: how a call is served, by the class of its shape.
// Products M P C: brute force, at some 5e12 a second, ends before the launches that screening, and packing, need
// besides.
constexpr double kFewProducts = 1 << 26, kFewUnpacked = 1 << 27;
constexpr std::int64_t kFewFeatures = 64;        // one row tile of brute force reads the bank once, packing does twice
constexpr std::int64_t kPerNeighbor = 8;         // prototypes: with fewer, most are near
constexpr std::int64_t kMostChannels = 1 << 14;  // beyond, rounding bounds of sums grow wide
// Bytes multiply at twice bfloat16's rate, but of channels that vary alike they leave 5 to 8 times as much uncertain,
// while the k-th distance stands out from the next ones by less of itself as C grows. Of 400 normal features and 16,384
// prototypes, simulated, int8 left none to bfloat16 at C = 512 and 5 in 100 at 768; 7 and 13 prototypes had to be
// measured, where bfloat16 asks for 1.4. Below 256 channels looking through the sums takes longer than the product.
constexpr std::int64_t kInt8Least = 256, kInt8Most = 768, kInt8Prototypes = 4096, kInt8Neighbors = 4;
constexpr int kInt8Before = 100;  // newer tensor cores multiply bytes no faster than bfloat16 with mma.sync, if at all
constexpr std::int64_t kInt8Features = 1024;  // with fewer, coding the bank once more costs more than it saves

// Hands out memory, in parts that are aligned; from null it only counts.
class Arena {
  public:
    explicit Arena(char* memory) : memory_(memory) {}
    template <typename T>
    T* take(std::int64_t count) {
        constexpr std::int64_t alignment = 256;
        char* at = memory_ ? memory_ + used_ : nullptr;
        used_ += round_up(count * std::int64_t(sizeof(T)), alignment);
        return reinterpret_cast<T*>(at);
    }
    std::int64_t used() const { return used_; }

  private:
    char* memory_;
    std::int64_t used_ = 0;
};

template <typename T>
T larger(T a, T b) {
    return a > b ? a : b;
}

}  // namespace

Bank bank_in(char* memory, std::int64_t P, std::int64_t C, Metric metric, bool screened, bool int8) {
    Bank bank{};
    Arena arena(memory);
    bank.rows = round_up(P, kTilePrototypes);
    bank.inverse = arena.take<double>(metric == Metric::cosine ? P : 0);
    if (screened) {
        bank.stats = arena.take<Stats>(1);
        bank.center = arena.take<float>(C);
        bank.largest = arena.take<float>(P);
        for (int format = 0; format < (int8 ? 2 : 1); ++format) {
            Coded& coded = bank.coded[format];
            coded.width = code_width(C, format);
            coded.offset = arena.take<float>(bank.rows);
            coded.codes = arena.take<unsigned char>(bank.rows * coded.width);
        }
    }
    bank.bytes = arena.used();
    return bank;
}

Workspace workspace_in(char* memory, const DistanceArguments& a) {
    Workspace work{};
    Arena arena(memory);
    const int blocks = brute_blocks();
    work.counters = arena.take<int>(kFormats + (a.M + kBruteRows - 1) / kBruteRows);
    work.inverse = arena.take<double>(a.metric == Metric::cosine ? a.M : 0);
    work.keys = arena.take<unsigned long long>(most_pieces(blocks) * kBruteRows * a.k);
    if (a.screen != Screen::none) {
        const std::int64_t rows = round_up(a.M, kTileRows);
        std::int64_t width = 0, lists = 0, entries = 0;
        for (int format = 0; format < kFormats; ++format) {
            if (!a.formats[format]) continue;
            const Shape shape = shape_of(a, static_cast<Format>(format));
            const std::int64_t mine = most_items(a.M, shape, a.k) * kTileRows * shape.lists;
            width = larger(width, code_width(a.C, format));
            lists = larger(lists, mine);
            entries = larger(entries, mine * shape.kept);
            work.failed[format] = arena.take<std::int32_t>(a.M);
        }
        work.terms = arena.take<Terms>(rows);
        work.codes = arena.take<unsigned char>(rows * width);
        work.bound = arena.take<float>(lists);
        work.entries = arena.take<Entry>(entries);
    }
    work.bytes = arena.used();
    return work;
}

bool codes_in_int8(std::int64_t P, std::int64_t C) { return P >= kInt8Prototypes && C >= kInt8Least && C <= kInt8Most; }

Choice choose(std::int64_t M, std::int64_t P, std::int64_t C, std::int64_t k, bool packed) {
    const double products = double(M) * double(P) * double(C);
    const bool small = products < (packed ? kFewProducts : kFewUnpacked) || (!packed && M <= kFewFeatures);
    const int capable = capability();
    if (small || kPerNeighbor * k > P || C > kMostChannels || capable < 80) return {Screen::none, {false, false}};
    const bool int8 =
        codes_in_int8(P, C) && k <= kInt8Neighbors && (packed || M >= kInt8Features) && capable < kInt8Before;
    // A Hopper GPU may run PTX of an older architecture, in which the wgmma kernel is only a trap.
    const bool wgmma = capable == 90 && std::strstr(VSAD_ARCHITECTURES, "90a") != nullptr;
    return {wgmma ? Screen::wgmma : Screen::mma, {true, int8}};
}

void prototype_distance(const DistanceArguments& a, cudaStream_t stream) {
    if (a.M == 0) return;
    zero(a.work.counters, (kFormats + (a.M + kBruteRows - 1) / kBruteRows) * sizeof(int), stream);
    if (a.metric == Metric::cosine) inverse_lengths(a, a.features, a.M, a.work.inverse, stream);
    Rows rows{nullptr, nullptr, static_cast<int>(a.M)};
    for (const Format format : {Format::int8, Format::bfloat16}) {
        if (a.screen == Screen::none || !a.formats[int(format)]) continue;
        code_features(a, format, rows, stream);
        a.screen == Screen::wgmma ? screen_wgmma(a, format, rows, stream) : screen_mma(a, format, rows, stream);
        rank(a, format, rows, stream);
        rows.list = a.work.failed[int(format)];
        rows.count = a.work.counters + int(format);
    }
    measure_all(a, rows, stream);
}

}  // namespace cuda
}  // namespace vsad
