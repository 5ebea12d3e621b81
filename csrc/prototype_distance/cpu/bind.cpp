#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "cpu/arena.h"
#include "cpu/bind.h"
#include "prototype_distance/cpu/kernels.h"

namespace py = pybind11;

namespace vsad {
namespace {

constexpr std::int64_t kMostChannels = 1 << 16;      // sums of as many products of bytes fit 32 bits
constexpr std::int64_t kMostPrototypes = INT32_MAX;  // the bank's indices
constexpr std::int64_t kMostPacked = 48 << 20;       // bytes of a bank that is packed for one call
constexpr std::int64_t kLeastFeatures = 32;          // with fewer, packing the bank costs more than it saves
constexpr std::int64_t kLeastPerNeighbor = 8;        // prototypes: with fewer, hardly any block can be left out

// Where the parts of a bank for P prototypes lie in `memory`; null counts the bytes only.
Bank bank_in(char* memory, std::int64_t P, std::int64_t C, bool int8) {
    Bank bank{};
    bank.P = P;
    bank.C = C;
    const std::int64_t blocks = ((P + kBlock - 1) / kBlock + 1) / 2 * 2, steps = (C + kStep - 1) / kStep;
    portable::Arena arena(memory);
    bank.count = arena.take<std::int64_t>(kClasses);
    bank.center = arena.take<float>(C);
    bank.index = arena.take<std::int32_t>(P);
    bank.offset = arena.take<float>(blocks * kBlock);
    bank.square = arena.take<float>(blocks);
    bank.radius = arena.take<float>(blocks);
    if (int8) {
        bank.int8.scale = arena.take<float>(blocks);
        bank.int8.offset = arena.take<float>(blocks * kBlock);
        bank.int8.bias = arena.take<std::int32_t>(blocks * kBlock);
        bank.square8 = arena.take<float>(blocks);
        bank.radius8 = arena.take<float>(blocks);
        bank.int8.tiles = arena.take<std::int8_t>(blocks * kBlock * steps * kStep);
    }
    bank.bytes = arena.used();
    if (memory) bank.blocks = ((bank.count[regular] + kBlock - 1) / kBlock + 1) / 2 * 2;
    return bank;
}

bool fits(const DistanceArguments& a) { return a.P <= kMostPrototypes && a.C > 0 && a.C <= kMostChannels; }

// Fills `memory`, a fresh bank around `center`.
void pack(DistanceArguments& a, char* memory, const float* center, bool int8) {
    a.bank = bank_in(memory, a.P, a.C, int8);
    std::copy_n(center, a.C, a.bank.center);
    std::vector<float> largest(a.P);
    std::vector<std::int8_t> classes(a.P);
    a.largest = largest.data();
    a.classes = classes.data();
    run_parallel(VSAD_CHOOSE(distance_classify)(a), &a);
    std::fill_n(a.bank.count, int(kClasses), 0);
    for (const std::int8_t is : classes) ++a.bank.count[is];
    std::iota(a.bank.index, a.bank.index + a.P, 0);
    std::sort(a.bank.index, a.bank.index + a.P, [&](std::int32_t i, std::int32_t j) {
        if (classes[i] != classes[j]) return classes[i] < classes[j];
        return classes[i] == regular && largest[i] != largest[j] ? largest[i] < largest[j] : i < j;
    });
    a.bank = bank_in(memory, a.P, a.C, int8);
    run_parallel(VSAD_CHOOSE(distance_pack)(a), &a);
}

void prototype_distance(DistanceArguments& a, char* packed, const float* center) {
    std::vector<Candidate> candidates;
    const Int8Kernels* int8 = int8_kernels();
    const bool screens = fits(a) && kLeastPerNeighbor * a.k <= a.P && a.M > 0 && (packed || a.M >= kLeastFeatures);
    if (screens) {
        std::unique_ptr<char[]> memory;
        if (!packed) {
            if (bank_in(nullptr, a.P, a.C, true).bytes > kMostPacked) int8 = nullptr;
            memory.reset(new char[bank_in(nullptr, a.P, a.C, int8).bytes]);
            pack(a, memory.get(), center, int8);
        } else {
            a.bank = bank_in(packed, a.P, a.C, true);
        }
        a.int8 = int8;
        a.rows = VSAD_CHOOSE(distance_rows)(a);
        const std::int64_t tiles = (a.M + a.rows - 1) / a.rows;
        a.chunks = tiles % a.threads == 0 || tiles >= 4 * a.threads ? 1 : a.threads;
        a.chunks = std::max<std::int64_t>(1, std::min(a.chunks, a.bank.blocks / 32));
        if (a.chunks > 1) candidates.resize(a.chunks * a.M * a.k);
        a.candidates = a.chunks > 1 ? candidates.data() : nullptr;
        run_parallel(VSAD_CHOOSE(distance_screen)(a), &a);
        if (a.chunks == 1) return;
    } else {
        // Few features leave threads idle unless the bank is shared out; a chunk holds k prototypes at least.
        const std::int64_t blocks = std::max<std::int64_t>(1, (a.M + kBruteRows - 1) / kBruteRows);
        const std::int64_t most = a.P / std::max<std::int64_t>(a.k, 256);
        a.chunks = std::max<std::int64_t>(1, std::min<std::int64_t>(2 * a.threads / blocks, most));
        candidates.resize(a.chunks * a.M * a.k);
        a.candidates = candidates.data();
        run_parallel(VSAD_CHOOSE(distance_brute)(a), &a);
    }
    run_parallel(VSAD_CHOOSE(distance_merge)(a), &a);
}

void backward(DistanceGradArguments& a, std::int64_t bytes_of_weight) {
    std::vector<char> weights(2 * bytes_of_weight * a.M * a.k);
    a.weights = weights.data();
    run_parallel(VSAD_CHOOSE(distance_grad_features)(a), &a);
    if (!a.grad_prototypes) return;
    std::vector<std::int64_t> begin(a.P + 1), chosen(a.M * a.k);
    for (std::int64_t n = 0; n < a.M * a.k; ++n) ++begin[a.indices[n]];
    std::exclusive_scan(begin.begin(), begin.end(), begin.begin(), std::int64_t(0));
    std::vector<std::int64_t> next(begin);
    for (std::int64_t n = 0; n < a.M * a.k; ++n) chosen[next[a.indices[n]]++] = n;
    a.begin = begin.data();
    a.chosen = chosen.data();
    run_parallel(VSAD_CHOOSE(distance_grad_prototypes)(a), &a);
}

using Two = std::array<std::int64_t, 3>;  // (data pointer, two strides)

Matrix matrix(const Two& t) { return {at<char>(static_cast<Pointer>(t[0])), t[1], t[2]}; }

DistanceArguments describe(int dtype, int metric, int threads, std::int64_t P, std::int64_t C, const Two& prototypes) {
    DistanceArguments a{};
    a.dtype = static_cast<Scalar>(dtype);
    a.metric = static_cast<Metric>(metric);
    a.threads = threads;
    a.P = P;
    a.C = C;
    a.prototypes = matrix(prototypes);
    return a;
}

}  // namespace

void bind_prototype_distance(py::module_& m) {
    m.def(
        "prototype_distance",
        [](int dtype, int metric, int threads, const std::array<std::int64_t, 4>& sizes, const Two& features,
           const Two& prototypes, Pointer distances, Pointer indices, Pointer center, Pointer packed) {
            DistanceArguments a = describe(dtype, metric, threads, sizes[1], sizes[2], prototypes);
            a.M = sizes[0];
            a.k = sizes[3];
            a.features = matrix(features);
            a.distances = at<void>(distances);
            a.indices = at<std::int64_t>(indices);
            const py::gil_scoped_release release;
            prototype_distance(a, at<char>(packed), at<float>(center));
        },
        py::kw_only(), py::arg("dtype"), py::arg("metric"), py::arg("threads"), py::arg("sizes"), py::arg("features"),
        py::arg("prototypes"), py::arg("distances"), py::arg("indices"), py::arg("center"), py::arg("packed"));
    m.def(
        "prototype_distance_backward",
        [](int dtype, int metric, int threads, const std::array<std::int64_t, 4>& sizes, const Two& features,
           const Two& prototypes, Pointer indices, Pointer grad_distances, Pointer grad_features,
           Pointer grad_prototypes) {
            DistanceGradArguments a{};
            a.dtype = static_cast<Scalar>(dtype);
            a.metric = static_cast<Metric>(metric);
            a.threads = threads;
            a.M = sizes[0], a.P = sizes[1], a.C = sizes[2], a.k = sizes[3];
            a.features = matrix(features);
            a.prototypes = matrix(prototypes);
            a.indices = at<std::int64_t>(indices);
            a.grad_distances = at<void>(grad_distances);
            a.grad_features = at<void>(grad_features);
            a.grad_prototypes = at<void>(grad_prototypes);
            const py::gil_scoped_release release;
            backward(a, a.dtype == Scalar::float64 ? 8 : 4);
        },
        py::kw_only(), py::arg("dtype"), py::arg("metric"), py::arg("threads"), py::arg("sizes"), py::arg("features"),
        py::arg("prototypes"), py::arg("indices"), py::arg("grad_distances"), py::arg("grad_features"),
        py::arg("grad_prototypes"));
    m.def(
        "packed_bytes",
        [](std::int64_t P, std::int64_t C) {
            DistanceArguments a{};
            a.P = P;
            a.C = C;
            return fits(a) ? bank_in(nullptr, P, C, true).bytes : 0;
        },
        py::arg("P"), py::arg("C"), "The size of a packed bank; 0 where packing would not help.");
    m.def(
        "pack_prototypes",
        [](int dtype, int metric, int threads, const std::array<std::int64_t, 2>& sizes, const Two& prototypes,
           Pointer center, Pointer packed) {
            DistanceArguments a = describe(dtype, metric, threads, sizes[0], sizes[1], prototypes);
            const py::gil_scoped_release release;
            pack(a, at<char>(packed), at<float>(center), true);
        },
        py::kw_only(), py::arg("dtype"), py::arg("metric"), py::arg("threads"), py::arg("sizes"), py::arg("prototypes"),
        py::arg("center"), py::arg("packed"));
}

}  // namespace vsad
