// Exact nearest prototypes at the speed of tensor cores: the order of the passes, and how memory is laid out.
//
// Rows are taken relative to the bank's center and quantized to bfloat16 or int8 (pack.cu, quantize.cu). Screening
// multiplies the quantized rows and keeps the few candidates of every feature (screen_mma.cu, screen_wgmma.cu,
// candidates.h); re-ranking measures these directly in float32 and certifies features (rerank.cu). Features that int8
// does not certify are screened again in bfloat16, and those that bfloat16 does not certify are measured against the
// whole bank (brute_force.cu). The number of such features stays on the device.
#include <cstring>

#include "prototype_distance/cuda/brute_force.h"
#include "prototype_distance/cuda/schedule.h"

namespace vsad {
namespace cuda {
namespace prototype_distance {
namespace {

// Launch table: how a call is served, by the class of its shape.
// When M P C is below these numbers, brute force finishes before screening, without and with packing, has been
// launched.
constexpr double kFewProducts = 1 << 26, kFewUnpacked = 1 << 27;
constexpr std::int64_t kFewFeatures = 64;  // one row tile of brute force reads the bank once, packing reads it twice
constexpr std::int64_t kFewestPerNeighbor = 8;   // prototypes per neighbor: with fewer, most prototypes are candidates
constexpr std::int64_t kMostChannels = 1 << 14;  // with more, the bounds on rounding are too wide to certify
// Int8 multiplies at twice the rate of bfloat16, but on correlated channels it leaves 5 to 8 times as wide an error,
// while the k-th distance stands out from the next ones by less of itself as C grows. In a simulation of 400 normal
// features and 16,384 prototypes, int8 left no feature to bfloat16 at C = 512 and 5 % at C = 768; re-ranking measured 7
// and 13 prototypes per feature, against 1.4 in bfloat16. On an H200, with 25,088 features, screening in int8 lost at
// C = 256, and took 0.76 of bfloat16's time at C = 512 with 262,144 prototypes; with k = 9 it certified nothing.
constexpr std::int64_t kInt8FewestChannels = 512, kInt8MostChannels = 1024, kInt8FewestPrototypes = 16384;
constexpr std::int64_t kInt8MostNeighbors = 2;
constexpr std::int64_t kInt8FewestFeatures = 1024;  // with fewer, packing the bank once more costs more than it saves
constexpr int kInt8Before = 100;                    // from sm_100 on, mma.sync multiplies int8 no faster than bfloat16

// Hands out aligned parts of memory; from null it only counts.
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

std::int64_t counters(const DistanceArguments& a) { return kFormats + (a.M + kBruteForceRows - 1) / kBruteForceRows; }

bool int8_serves(std::int64_t P, std::int64_t C, std::int64_t k) {
    return P >= kInt8FewestPrototypes && C >= kInt8FewestChannels && C <= kInt8MostChannels && k <= kInt8MostNeighbors;
}

}  // namespace

Bank lay_out_bank(char* memory, const DistanceOperands& a, bool screened, bool int8) {
    Bank bank{};
    Arena arena(memory);
    bank.rows = round_up(a.P, kTilePrototypes);
    bank.inverse_lengths = arena.take<double>(a.metric == Metric::cosine ? a.P : 0);
    if (screened) {
        bank.statistics = arena.take<BankStatistics>(1);
        bank.center = arena.take<float>(a.C);
        bank.largest = arena.take<float>(a.P);
        for (int format = 0; format < (int8 ? 2 : 1); ++format) {
            QuantizedRows& quantized = bank.quantized[format];
            quantized.width = code_width(a.C, format);
            quantized.offset = arena.take<float>(bank.rows);
            quantized.codes = arena.take<unsigned char>(bank.rows * quantized.width);
        }
    }
    bank.bytes = arena.used();
    return bank;
}

Workspace lay_out_workspace(char* memory, const DistanceArguments& a) {
    Workspace work{};
    Arena arena(memory);
    work.counters = arena.take<int>(counters(a));
    work.inverse_lengths = arena.take<double>(a.metric == Metric::cosine ? a.M : 0);
    work.keys = arena.take<unsigned long long>(most_split_items(brute_force_blocks()) * kBruteForceRows * a.k);
    if (a.screen != Screen::none) {
        const std::int64_t rows = round_up(a.M, kTileRows);
        std::int64_t width = 0, lists = 0, candidates = 0;
        for (int format = 0; format < kFormats; ++format) {
            if (!a.formats[format]) continue;
            const ScreenShape shape = shape_of(a, static_cast<Format>(format));
            const std::int64_t mine = most_items(a.M, shape, a.k) * kTileRows * shape.lists;
            width = larger(width, code_width(a.C, format));
            lists = larger(lists, mine);
            candidates = larger(candidates, mine * shape.kept);
            work.uncertified[format] = arena.take<std::int32_t>(a.M);
        }
        work.features = arena.take<QuantizedFeature>(rows);
        work.codes = arena.take<unsigned char>(rows * width);
        work.bounds = arena.take<float>(lists);
        work.candidates = arena.take<Candidate>(candidates);
    }
    work.bytes = arena.used();
    return work;
}

Choice choose(std::int64_t M, std::int64_t P, std::int64_t C, std::int64_t k, bool packed) {
    const double products = double(M) * double(P) * double(C);
    const bool small = products < (packed ? kFewProducts : kFewUnpacked) || (!packed && M <= kFewFeatures);
    const int capable = capability();
    if (small || kFewestPerNeighbor * k > P || C > kMostChannels || capable < 80) return {Screen::none, {false, false}};
    const bool int8 = int8_serves(P, C, k) && (packed || M >= kInt8FewestFeatures) && capable < kInt8Before;
    // A Hopper GPU may run PTX of an older architecture, in which the wgmma kernel is only a trap.
    const bool wgmma = capable == 90 && std::strstr(VSAD_ARCHITECTURES, "90a") != nullptr;
    return {wgmma ? Screen::wgmma : Screen::mma, {true, int8}};
}

void screened_search(const DistanceArguments& a, cudaStream_t stream) {
    if (a.M == 0) return;
    zero(a.work.counters, counters(a) * sizeof(int), stream);
    if (a.metric == Metric::cosine) inverse_lengths(a, a.features, a.M, a.work.inverse_lengths, stream);
    FeatureList features{nullptr, nullptr, static_cast<int>(a.M)};
    for (const Format format : {Format::int8, Format::bfloat16}) {
        if (a.screen == Screen::none || !a.formats[int(format)]) continue;
        quantize_features(a, format, features, stream);
        a.screen == Screen::wgmma ? screen_wgmma(a, format, features, stream) : screen_mma(a, format, features, stream);
        rerank(a, format, features, stream);
        features.list = a.work.uncertified[int(format)];
        features.count = a.work.counters + int(format);
    }
    brute_force(a, features, stream);
}

}  // namespace prototype_distance
}  // namespace cuda
}  // namespace vsad
