// Gradients of the distances. Only chosen prototypes have one; each sums over the features that chose it, in order.
#include "prototype_distance/cpu/kernels.h"
#include "prototype_distance/cpu/rows.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

constexpr std::int64_t kRowsPerItem = 64;
constexpr std::int64_t kOperations = 4;  // per channel of a pair

template <typename T>
T dot(const T* x, const T* y, std::int64_t padded) {
    Vector<T> sums[2] = {};
    for (std::int64_t c = 0; c < padded; c += kParts)
        for (int i = 0; i < kParts; i += kLanes<T>) sums[i / kLanes<T> % 2] += load(x + c + i) * load(y + c + i);
    return sum_lanes<T>(sums[0] + sums[1]);
}

// sum += own (x - y) + other y
template <typename T>
void add(T* sum, T own, T other, const T* x, const T* y, std::int64_t padded) {
    for (std::int64_t c = 0; c < padded; ++c) sum[c] += own * (x[c] - y[c]) + other * y[c];
}

// With feature f and prototype p the gradients are
//     df = own_f (f - p) + other_f p,    dp = own_p (p - f) + other_p f,
// where `other` is zero except for the cosine.
template <typename T>
struct Weights {
    T own_f, own_p, other_f, other_p;
};

template <typename T>
Weights<T> weights(const T* f, const T* p, std::int64_t padded, Metric metric, T grad) {
    if (metric != Metric::cosine) {
        const T squared = direct_distance(f, p, padded);
        // at distance zero the gradient is zero; a NaN distance passes the comparison and gives NaN
        const T w = metric == Metric::sqeuclidean ? 2 * grad : squared == 0 ? 0 : grad / T(__builtin_sqrt(squared));
        return {w, w, 0, 0};
    }
    const T ff = dot(f, f, padded), pp = dot(p, p, padded);
    if (ff == 0 || pp == 0) return {0, 0, 0, 0};
    const T norms = T(__builtin_sqrt(ff)) * T(__builtin_sqrt(pp)), cosine = dot(f, p, padded) / norms;
    if (cosine > 1) return {0, 0, 0, 0};  // the distance is clamped there
    const T own_f = grad * cosine / ff, own_p = grad * cosine / pp, cross = grad / norms;
    return {own_f, own_p, own_f - cross, own_p - cross};
}

template <typename Element, typename T>
void store_row(void* to, std::int64_t row, const T* from, std::int64_t C) {
    Element* out = static_cast<Element*>(to) + row * C;
    for (std::int64_t c = 0; c < C; ++c) out[c] = narrow<Element>(from[c]);
}

// Gradients of features, and the weights of all pairs, which prototypes_item needs.
template <typename Element>
void features_item(const void* arguments, std::int64_t item, char* scratch) {
    using T = typename Compute<Element>::type;
    const DistanceGradientArguments& a = *static_cast<const DistanceGradientArguments*>(arguments);
    const std::int64_t padded = pad_row(a.C);
    Arena arena(scratch);
    T *f = arena.take<T>(padded), *p = arena.take<T>(padded), *sum = arena.take<T>(padded);
    Patience patience(kOperations * padded);
    for (std::int64_t m = item * kRowsPerItem; m < lesser(a.M, (item + 1) * kRowsPerItem); ++m) {
        load_row<Element>(f, a.features, m, a.C, Metric::euclidean);
        fill(sum, padded, T(0));
        for (std::int64_t j = m * a.k; j < (m + 1) * a.k; ++j) {
            if (patience.ends()) return;
            load_row<Element>(p, a.prototypes, a.indices[j], a.C, Metric::euclidean);
            const T grad = widen(static_cast<const Element*>(a.grad_distances)[j]);
            const Weights<T> w = weights(f, p, padded, a.metric, grad);
            if (a.grad_features) add(sum, w.own_f, w.other_f, f, p, padded);
            T* kept = static_cast<T*>(a.weights) + 2 * j;
            kept[0] = w.own_p;
            kept[1] = w.other_p;
        }
        if (a.grad_features) store_row<Element>(a.grad_features, m, sum, a.C);
    }
}

template <typename Element>
void prototypes_item(const void* arguments, std::int64_t item, char* scratch) {
    using T = typename Compute<Element>::type;
    const DistanceGradientArguments& a = *static_cast<const DistanceGradientArguments*>(arguments);
    const std::int64_t padded = pad_row(a.C);
    Arena arena(scratch);
    T *f = arena.take<T>(padded), *p = arena.take<T>(padded), *sum = arena.take<T>(padded);
    Patience patience(kOperations * padded);
    for (std::int64_t row = item * kRowsPerItem; row < lesser(a.P, (item + 1) * kRowsPerItem); ++row) {
        fill(sum, padded, T(0));
        if (a.begin[row] < a.begin[row + 1]) load_row<Element>(p, a.prototypes, row, a.C, Metric::euclidean);
        for (std::int64_t n = a.begin[row]; n < a.begin[row + 1]; ++n) {
            if (patience.ends()) return;
            const T* w = static_cast<const T*>(a.weights) + 2 * a.sorted_pairs[n];
            load_row<Element>(f, a.features, a.sorted_pairs[n] / a.k, a.C, Metric::euclidean);
            add(sum, w[0], w[1], p, f, padded);
        }
        store_row<Element>(a.grad_prototypes, row, sum, a.C);
    }
}

template <typename Element>
struct Items {
    static std::int64_t bytes(const DistanceGradientArguments& a) {
        return 3 * (pad_row(a.C) * std::int64_t(sizeof(typename Compute<Element>::type)) + 64);
    }
    static Work features(const DistanceGradientArguments& a) {
        return {(a.M + kRowsPerItem - 1) / kRowsPerItem, a.threads, bytes(a), &features_item<Element>};
    }
    static Work prototypes(const DistanceGradientArguments& a) {
        return {(a.P + kRowsPerItem - 1) / kRowsPerItem, a.threads, bytes(a), &prototypes_item<Element>};
    }
};

}  // namespace

VSAD_BY_DTYPE(distance_grad_features, features, DistanceGradientArguments)
VSAD_BY_DTYPE(distance_grad_prototypes, prototypes, DistanceGradientArguments)

}  // namespace VSAD_ISA
}  // namespace vsad
