// The arithmetic of one pixel's window, for a batch of heads at once.
//
// Taps and cells are laid out in rows of `quads` vectors: lane b of every quad of vector c in row a is the tap or cell
// (a, 4c + b), each quad for its own head. The padding of a row is zero among taps and invalid among cells. kR is the
// window where it is known at compile time, else 0.
#pragma once

#include "homography_align/cpu/tile.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

// Vectors that are summed in registers at once: AVX-512 has 32 vector registers, the other instruction sets 16.
#if defined(__AVX512F__)
constexpr int kBlock = 8;
#else
constexpr int kBlock = 4;
#endif

// A step is not inlined, so that all registers are free for its loop.
#define VSAD_STEP __attribute__((noinline))

// The function compiled for a window. Other windows, and float64, share one to which the window is a run-time number.
#define VSAD_BY_WINDOW(function, Element, window)            \
    ((window) == 1   ? &function<Element, known<Element>(1)> \
     : (window) == 3 ? &function<Element, known<Element>(3)> \
     : (window) == 5 ? &function<Element, known<Element>(5)> \
     : (window) == 7 ? &function<Element, known<Element>(7)> \
                     : &function<Element, 0>)
template <typename Element>
constexpr int known(int R) {
    return std::is_same_v<Element, double> ? 0 : R;
}

// A run of neighboring pixels of a tile that take each step together. Each step is thus a loop whose values fit in
// registers, and the processor overlaps the work of several pixels.
constexpr int kRun = 8;
struct Run {
    int count = 0;
    int window[kRun];                           // indices among the tile's windows
    std::int64_t pixel[kRun], first_tap[kRun];  // indices among the tile's pixels and among the box's
};

// Calls visit(run) for all windows of a part of the tile that touch the source. It goes down strips as wide as a run,
// so that taps stay in the first-level cache from one row to the next.
template <typename T, typename Visit>
VSAD_HD void for_each_run(const Windows<T>& windows, const Plan<T>& plan, Rectangle tile, Rectangle part, Rectangle box,
                          const Visit& visit) {
    for (int strip = part.x; strip < part.x + part.width; strip += kRun)
        for (int y = part.y; y < part.y + part.height; ++y) {
            Run run;
            for (int x = strip; x < lesser(strip + kRun, part.x + part.width); ++x) {
                const int window = y * plan.pitch() + x;
                if (windows.reach[window] == kNowhere) continue;
                run.window[run.count] = window;
                run.pixel[run.count] = y * tile.width + x;
                run.first_tap[run.count++] =
                    std::int64_t(windows.top[window] - box.y) * box.width + windows.left[window] - box.x;
            }
            if (run.count) visit(run);
        }
}

// Packed pixels of one batch of heads. `row` and `line` are the strides from pixel to pixel and from line to line.
template <typename T>
struct Packed {
    T* pixels;
    std::int64_t line, row;
    int vectors, span;

    Packed(T* pixels, std::int64_t width, const Channels<std::remove_const_t<T>>& c)
        : pixels(pixels), line(width * c.row()), row(c.row()), vectors(c.vectors), span(c.span) {}
    VSAD_HD T* at(std::int64_t pixel) const { return pixels + pixel * row; }
};

template <int kR>
struct Size {
    int window;  // read only when kR is 0

    VSAD_HD int R() const { return kR ? kR : window; }
    VSAD_HD int side() const { return R() + 1; }            // taps per row
    VSAD_HD int quads() const { return (side() + 3) / 4; }  // vectors per row
    VSAD_HD int cells() const { return R() * quads(); }     // vectors of all cells
    VSAD_HD int taps() const { return side() * quads(); }   // vectors of all taps
    static constexpr int kTaps = kR ? (kR + 1) * ((kR + 4) / 4) : 1;
};

// A row of taps, addressed by one pointer and one step. The empty assembly keeps the compiler from replacing them by
// one pointer per tap, for which there are not enough registers.
template <typename T>
struct Line {
    const T* first;
    std::int64_t step, steps3;

    Line() = default;
    VSAD_HD Line(const T* first, std::int64_t step) : first(first), step(step), steps3(3 * step) {
        __asm__("" : "+r"(steps3));
    }
    VSAD_HD const T* tap(int b) const { return first + (b % 4 == 3 ? steps3 : b % 4 * step) + b / 4 * 4 * step; }
    VSAD_HD void next_vector() {
        first += kLanes<T>;
        __asm__("" : "+r"(first));
    }
};

// t[a][b] = <row, tap (a, b)> for a block of rows x taps.
template <typename T, int rows, int taps>
VSAD_HD void dot_block(T* t, int quads, const T* row, const T* first, const Packed<const T>& box) {
    constexpr int padded = (taps + 3) / 4 * 4;
    Vector<T> sums[rows][padded] = {};
    Line<T> lines[rows];
    for (int a = 0; a < rows; ++a) lines[a] = {first + a * box.line, box.row};
    for (int c = 0; c < box.vectors; ++c, row += kLanes<T>) {
        const Vector<T> r = load(row);
        VSAD_UNROLL(4)
        for (int a = 0; a < rows; ++a) {
            VSAD_UNROLL(8)
            for (int b = 0; b < taps; ++b) sums[a][b] += r * load(lines[a].tap(b));
            lines[a].next_vector();
        }
    }
    VSAD_UNROLL(4)
    for (int a = 0; a < rows; ++a)
        for (int b = 0; b < padded; b += 4) {
            const Vector<T>* s = sums[a] + b;
            const Vector<T> sum = sum_over_span<T>(sum_quads<T>(s[0], s[1], s[2], s[3]), box.span);
            store(t + (a * quads + b / 4) * kLanes<T>, sum);
        }
}

// t = <rows[pixel], taps of the pixel's window>, for the pixels of a run one after the other.
template <typename T, int kR>
VSAD_STEP void dot_taps(T* t, const Run& run, const Packed<const T>& rows, const Packed<const T>& box, Size<kR> size,
                        Prefetch& ahead) {
    for (int i = 0; i < run.count; ++i, t += size.taps() * kLanes<T>) {
        ahead.step();
        const T *row = rows.at(run.pixel[i]), *first = box.at(run.first_tap[i]);
        if constexpr (kBlock == 8 && kR == 3) {
            dot_block<T, 4, 4>(t, 1, row, first, box);
        } else if constexpr (kBlock == 8 && (kR == 5 || kR == 7)) {
            for (int a = 0; a < kR + 1; a += 2)
                dot_block<T, 2, kR + 1>(t + a * 2 * kLanes<T>, 2, row, first + a * box.line, box);
        } else {
            for (int a = 0; a < size.side(); a += 2)  // R is odd, so the number of rows of taps is even
                for (int c = 0; c < size.quads(); ++c) {
                    const T* at = first + a * box.line + 4 * c * box.row;
                    T* to = t + (a * size.quads() + c) * kLanes<T>;
                    if (4 * c + 2 < size.side())
                        dot_block<T, 2, 4>(to, size.quads(), row, at, box);
                    else
                        dot_block<T, 2, 2>(to, size.quads(), row, at, box);
                }
        }
    }
}

// Calls visit(index of a vector of cells, left, right): left and right are the taps on both sides of the cells, already
// mixed between the rows above and below. `rows_mixed(i)` mixes vector i of a row of taps with the row below.
template <typename T, int kR, typename Mix, typename Visit>
VSAD_HD void for_each_cell(Size<kR> size, const Mix& rows_mixed, const Visit& visit) {
    for (int a = 0; a < size.R(); ++a) {
        Vector<T> left = rows_mixed(a * size.quads());
        for (int c = 0; c < size.quads(); ++c) {
            const bool last = c + 1 == size.quads();
            const Vector<T> next = last ? left : rows_mixed(a * size.quads() + c + 1);
            visit(a * size.quads() + c, left,
                  last ? in_quads<T, 1, 2, 3, 3>(left, left) : in_quads<T, 1, 2, 3, 4>(left, next));
            left = next;
        }
    }
}

// cells = exp(cells), for `count` vectors of cells that are not positive.
template <typename T>
VSAD_STEP void exp_cells(T* cells, int count) {
    constexpr int together = 4;
    for (; count >= together; count -= together, cells += together * kLanes<T>) {
        Vector<T> x[together];
        for (int i = 0; i < together; ++i) x[i] = load(cells + i * kLanes<T>);
        exp_of_nonpositive(x);
        for (int i = 0; i < together; ++i) store(cells + i * kLanes<T>, x[i]);
    }
    for (; count > 0; --count, cells += kLanes<T>) store(cells, exp_of_nonpositive(load(cells)));
}

// What every tap receives from the cells it belongs to. The padding of cells must be zero.
template <typename T, int kR>
VSAD_HD void cells_to_taps(T* taps, const T* cells, T fx, T fy, Size<kR> size) {
    constexpr int lanes = kLanes<T>;
    for (int c = 0; c < size.quads(); ++c) {
        Vector<T> above = {};  // the row of cells above, mixed along x
        for (int a = 0; a < size.side(); ++a) {
            const int i = (a * size.quads() + c) * lanes;
            const Vector<T> cell = a < size.R() ? load(cells + i) : Vector<T>{};
            const Vector<T> before = a < size.R() && c > 0 ? load(cells + i - lanes) : Vector<T>{};
            const Vector<T> mixed = mix(fx, cell, in_quads<T, 3, 4, 5, 6>(before, cell));
            store(taps + i, mix(fy, mixed, above));
            above = mixed;
        }
    }
}

// Calls visit(weight, tap, weight, tap) for two taps at a time; each weight fills all lanes of its head.
template <typename T, typename Tap, int kR, typename Visit>
VSAD_HD void for_each_tap(const T* weights, Tap* first, const Packed<Tap>& box, Size<kR> size, const Visit& visit) {
    for (int a = 0; a < size.side(); ++a)
        for (int c = 0; c < size.quads(); ++c) {
            const Vector<T> w = load(weights + (a * size.quads() + c) * kLanes<T>);
            Tap* tap = first + a * box.line + 4 * c * box.row;
            visit(spread_lane<T, 0>(w), tap, spread_lane<T, 1>(w), tap + box.row);
            if (4 * c + 2 < size.side())
                visit(spread_lane<T, 2>(w), tap + 2 * box.row, spread_lane<T, 3>(w), tap + 3 * box.row);
        }
}

template <typename T, int vectors, int kR>
VSAD_HD void add_block(T* sum, Vector<T> keep, const T* weights, const T* first, const Packed<const T>& box,
                       Size<kR> size) {
    constexpr int lanes = kLanes<T>,
                  sets = 2 * vectors <= kBlock + 2 ? 2 : 1;  // two sets hide the latency of additions
    Vector<T> sums[2][vectors] = {};
    VSAD_UNROLL(8)
    for (int i = 0; i < vectors; ++i) sums[0][i] = keep * load(sum + i * lanes);
    for_each_tap<T>(weights, first, box, size, [&](Vector<T> w0, const T* tap0, Vector<T> w1, const T* tap1) {
        VSAD_UNROLL(8)
        for (int i = 0; i < vectors; ++i) {
            sums[0][i] += w0 * load(tap0 + i * lanes);
            sums[sets - 1][i] += w1 * load(tap1 + i * lanes);
        }
    });
    VSAD_UNROLL(8)
    for (int i = 0; i < vectors; ++i) store(sum + i * lanes, sets == 2 ? sums[0][i] + sums[1][i] : sums[0][i]);
}

// sums[pixel] = keep * sums[pixel] + the sum of weight * tap over its window, for `vectors` vectors from `begin` on.
// Without `keep` the factor is 1.
template <typename T, int vectors, int kR>
VSAD_STEP void add_part(const Packed<T>& sums, const T* keep, const T* weights, const Run& run,
                        const Packed<const T>& box, int begin, Size<kR> size, Prefetch& ahead) {
    for (int i = 0; i < run.count; ++i) {
        ahead.step();
        add_block<T, vectors>(sums.at(run.pixel[i]) + begin,
                              keep ? load(keep + i * (size.cells() + 1) * kLanes<T>) : broadcast(T(1)),
                              weights + i * size.taps() * kLanes<T>, box.at(run.first_tap[i]) + begin, box, size);
    }
}

template <typename T, int kR>
VSAD_HD void add_taps(const Packed<T>& sums, const T* keep, const T* weights, const Run& run,
                      const Packed<const T>& box, Size<kR> size, Prefetch& ahead) {
    const int blocks = (box.vectors + kBlock - 1) / kBlock;
    for (int begin = 0, block = 0; block < blocks; ++block) {
        const int count = (box.vectors - begin + blocks - block - 1) / (blocks - block);  // sizes differ by at most one
        switch (count) {
#define VSAD_CASE(n)                                                                   \
    case n:                                                                            \
        add_part<T, n>(sums, keep, weights, run, box, begin * kLanes<T>, size, ahead); \
        break;
            VSAD_CASE(1)
            VSAD_CASE(2)
            VSAD_CASE(3)
            VSAD_CASE(4)
#if defined(__AVX512F__)
            VSAD_CASE(5)
            VSAD_CASE(6)
            VSAD_CASE(7)
            VSAD_CASE(8)
#endif
#undef VSAD_CASE
        }
        begin += count;
    }
}

// Adds weight * rows[pixel] to every tap of the pixel's window.
template <typename T, int kR>
VSAD_STEP void scatter_taps(const Packed<T>& box, const T* weights, const Run& run, const Packed<const T>& rows,
                            Size<kR> size, Prefetch& ahead) {
    for (int i = 0; i < run.count; ++i) {
        ahead.step();
        const T* row = rows.at(run.pixel[i]);
        for_each_tap<T>(weights + i * size.taps() * kLanes<T>, box.at(run.first_tap[i]), box, size,
                        [&](Vector<T> w0, T* tap0, Vector<T> w1, T* tap1) {
                            for (int c = 0; c < box.vectors * kLanes<T>; c += kLanes<T>) {
                                const Vector<T> r = load(row + c);
                                store(tap0 + c, load(tap0 + c) + w0 * r);
                                store(tap1 + c, load(tap1 + c) + w1 * r);
                            }
                        });
    }
}

// Which lanes of a vector of cells are valid, as comparisons of vectors tell it: an integer with all bits set.
template <typename T>
using Mask = decltype(Vector<T>{} > Vector<T>{});

template <typename T>
void valid_mask(Mask<T>* mask, const Cells& cells, int R, int quads) {
    for (int a = 0; a < R; ++a)
        for (int c = 0; c < quads; ++c)
            for (int i = 0; i < kLanes<T>; ++i) mask[a * quads + c][i] = cells.hold(a, 4 * c + i % 4) ? -1 : 0;
}

// Calls visit(index of a vector of cells, its logits) for a window; -inf marks a cell that is not valid, and `mask` is
// null where all are. Forward and backward find the same bits here: where logits are large, their last bits decide.
template <typename T, int kR, typename Visit>
VSAD_HD void for_each_logit(const T* taps, T fx, T fy, T scale, const T* bias, const Mask<T>* mask, Size<kR> size,
                            const Visit& visit) {
    const auto row = [taps](int i) { return load(taps + i * kLanes<T>); };
    for_each_cell<T>(
        size, [&](int j) { return mix_alike(fy, row(j), row(j + size.quads())); },
        [&](int j, Vector<T> left, Vector<T> right) {
            Vector<T> logit = scale * mix_alike(fx, left, right) + load(bias + j * kLanes<T>);
            if (mask) logit = mask[j] ? logit : broadcast(T(-__builtin_inf()));
            visit(j, logit);
        });
}

// The bias of one slot and one batch of heads, laid out as cells. The padding is -inf, so that windows whose cells are
// all valid need no mask.
template <typename T>
void load_bias(T* to, const AlignArguments& a, const Plan<T>& plan, int batch, std::int64_t slot) {
    const T* bias = static_cast<const T*>(a.bias);
    for (int row = 0; row < plan.R; ++row)
        for (int c = 0; c < plan.quads; ++c)
            for (int i = 0; i < kLanes<T>; ++i, ++to) {
                const int col = 4 * c + i % 4, head = batch * plan.key.together + i / 4 / plan.key.span;
                *to = col >= plan.R ? T(-__builtin_inf())
                      : bias        ? bias[((head * a.N + slot) * plan.R + row) * plan.R + col]
                                    : T(0);
            }
}

}  // namespace
}  // namespace VSAD_ISA
}  // namespace vsad
