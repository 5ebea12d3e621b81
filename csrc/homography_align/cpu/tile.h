// A tile of target pixels, where its windows lie in a source view, and the boxes of source pixels they touch. Forward
// and backward pack the tile and its boxes into scratch memory. Their loops then handle one dtype and layout, without
// remainders and borders, and each source pixel is converted once for all windows that read it.
#pragma once

#include "homography_align/cpu/pack.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

constexpr int kTileSide = 16;
constexpr std::int64_t kBoxPixels = 512;          // a tile's windows and their margins, at a scale near one
constexpr std::int64_t kScratchBytes = 64 << 20;  // scratch memory of all threads together
constexpr std::int64_t kThreadBytes = 1 << 20;    // scratch memory of a thread: a core's second-level cache
constexpr float kFar = 1e6f;                      // points further out, in pixels, are not prefetched

// The sizes of a call, and of a thread's scratch memory: for a tile it holds `tile_copies` pairs of tensors with the
// channels of query and of value, for `tile_batches` batches of heads at once; for a box, `box_copies` pairs with the
// channels of key and of value, for one batch.
template <typename T>
struct Plan {
    int R, side, quads;  // the window; taps per row; vectors per row of taps or cells
    Channels<T> key, value;
    int tile_width = kTileSide, tile_height = kTileSide;
    std::int64_t box_pixels, threads;

    Plan(const AlignArguments& a, int tile_copies, int tile_batches, int box_copies)
        : R(a.window),
          side(R + 1),
          quads((side + 3) / 4),
          key(a.heads, int(a.C / a.heads)),
          value(a.heads, int(a.Cv / a.heads)) {
        const std::int64_t pixel = (key.row() + value.row()) * std::int64_t(sizeof(T)) + 1;
        const std::int64_t of_tile = pixel * tile_copies * tile_batches, of_box = pixel * box_copies;
        // One pixel and its box always fit. The tile must not depend on the number of threads, because the order of
        // additions depends on the tile.
        const std::int64_t bytes = greater(of_tile + taps() * of_box, kThreadBytes);
        threads = greater<std::int64_t>(1, lesser<std::int64_t>(a.threads, kScratchBytes / bytes));
        while (tile_pixels() > 1 && tile_pixels() * (of_tile + 2 * of_box) > bytes)
            (tile_width < tile_height ? tile_height : tile_width) /= 2;
        box_pixels = greater<std::int64_t>(taps(), lesser(kBoxPixels, (bytes - tile_pixels() * of_tile) / of_box));
    }

    int taps() const { return side * side; }
    int tile_pixels() const { return tile_width * tile_height; }
    // The distance between rows of a tile's windows, which are stored as full vectors.
    int pitch() const { return round_up<T>(tile_width); }
    std::int64_t tiles_across(const AlignArguments& a) const { return (a.W + tile_width - 1) / tile_width; }
    std::int64_t tiles(const AlignArguments& a) const {
        return tiles_across(a) * ((a.H + tile_height - 1) / tile_height);
    }
    Rectangle tile(const AlignArguments& a, std::int64_t index) const {
        const int x = int(index % tiles_across(a)) * tile_width, y = int(index / tiles_across(a)) * tile_height;
        return {x, y, lesser(tile_width, int(a.W) - x), lesser(tile_height, int(a.H) - y)};
    }
};

// How much of a window lies within the source.
enum Reach : int { kNowhere, kPartly, kFully };

// The windows of a tile's pixels, in rows of Plan::pitch.
template <typename T>
struct Windows {
    T *x, *y, *Z, *fx, *fy;  // the projected point, and the fractions of x and y
    int *left, *top;         // position of the first tap
    int* reach;

    Windows(Arena& arena, const Plan<T>& plan) {
        const int count = plan.pitch() * plan.tile_height;
        for (T** numbers : {&x, &y, &Z, &fx, &fy}) *numbers = arena.take<T>(count);
        for (int** numbers : {&left, &top, &reach}) *numbers = arena.take<int>(count);
    }
    Cells cells(int window, const AlignArguments& a) const {
        return valid_cells(x[window], y[window], a.window / 2, int(a.Hs), int(a.Ws));
    }
};

template <typename T>
VSAD_HD Vector<T> floor_of(Vector<T> v) {
    for (int i = 0; i < kLanes<T>; ++i) v[i] = round_down(v[i]);
    return v;
}

// Projects the pixels of a tile. Returns false when none of their windows touches the source.
template <typename T>
bool project_tile(const Windows<T>& windows, const AlignArguments& a, const Plan<T>& plan, const T* H, Rectangle tile) {
    typedef int Integers __attribute__((vector_size(kLanes<T> * sizeof(int))));
    const T radius = T(a.window / 2), last_x = T(a.Ws - 1), last_y = T(a.Hs - 1);
    const Vector<T> zero = {}, partly = broadcast(T(kPartly)), fully = broadcast(T(kFully));
    Vector<T> any = {};
    for (int row = 0; row < tile.height; ++row)
        for (int col = 0; col < tile.width; col += kLanes<T>) {
            const Projection<Vector<T>> p = project(H, lane_numbers<T>() + T(tile.x + col), T(tile.y + row));
            // NaN fails every comparison: its window is nowhere, and it is replaced before the conversion to integers.
            const auto near =
                (p.Z > 0) & (p.x >= -radius) & (p.x <= last_x + radius) & (p.y >= -radius) & (p.y <= last_y + radius);
            const auto inside =
                (p.x - radius >= 0) & (p.x + radius <= last_x) & (p.y - radius >= 0) & (p.y + radius <= last_y);
            const Vector<T> reach = near ? (inside ? fully : partly) : zero;
            const Vector<T> x = near ? p.x : zero, y = near ? p.y : zero;
            const Vector<T> left = floor_of<T>(x), top = floor_of<T>(y);
            any = any > reach ? any : reach;
            const int at = row * plan.pitch() + col;
            store(windows.x + at, x);
            store(windows.y + at, y);
            store(windows.Z + at, p.Z);
            store(windows.fx + at, x - left);
            store(windows.fy + at, y - top);
            const auto put = [at](int* to, Vector<T> v) {
                const Integers integers = __builtin_convertvector(v, Integers);
                __builtin_memcpy(to + at, &integers, sizeof integers);
            };
            put(windows.left, left - radius);
            put(windows.top, top - radius);
            put(windows.reach, reach);
        }
    return max_lanes<T>(any) > 0;
}

// Prefetches what is needed next into the second-level cache, a few cache lines between the steps of the computation:
// packing alone would wait for memory that the computation leaves idle.
class Prefetch {
  public:
    // Adds the pixels of `box` that lie in an image of width x height whose pixel (0, 0) is at `from`.
    template <typename Element>
    void add(const Element* from, const Image& strides, Rectangle box, std::int64_t width, std::int64_t height) {
        const std::int64_t left = greater(0, box.x), right = lesser<std::int64_t>(box.x + box.width, width);
        const std::int64_t top = greater(0, box.y), bottom = lesser<std::int64_t>(box.y + box.height, height);
        if (!from || strides.channel != 1 || strides.x < 0 || left >= right || top >= bottom || count_ == kMost) return;
        const std::int64_t lines = ((right - left) * strides.x * std::int64_t(sizeof(Element)) + 63) / 64;
        regions_[count_++] = {reinterpret_cast<const char*>(from + top * strides.y + left * strides.x),
                              strides.y * std::int64_t(sizeof(Element)), lines, bottom - top};
        lines_ += lines * (bottom - top);
    }
    // Spreads all that was added evenly over `steps` calls of step().
    void spread(std::int64_t steps) { lines_per_step_ = (lines_ + steps - 1) / greater<std::int64_t>(1, steps); }
    VSAD_HD void step() {
        for (std::int64_t i = 0; i < lines_per_step_ && next_ < count_; ++i) {
            Region& region = regions_[next_];
            __builtin_prefetch(region.from + 64 * at_, 0, 2);
            if (++at_ < region.width) continue;
            at_ = 0;
            region.from += region.stride;
            if (--region.height == 0) ++next_;
        }
    }

  private:
    static constexpr int kMost = 8;
    // `stride` is in bytes, `width` in cache lines and `height` in rows.
    struct Region {
        const char* from;
        std::int64_t stride, width, height;
    };
    Region regions_[kMost];
    int count_ = 0, next_ = 0;
    std::int64_t lines_ = 0, lines_per_step_ = 0, at_ = 0;
};

// Approximately where the windows of a tile lie, which is enough for prefetching.
template <typename T>
Rectangle guess_box(const AlignArguments& a, const Plan<T>& plan, const T* H, Rectangle tile) {
    T left = T(a.Ws), right = -1, top = T(a.Hs), bottom = -1;
    for (int corner = 0; corner < 4; ++corner) {
        const T x = T(tile.x + (corner & 1) * (tile.width - 1)), y = T(tile.y + (corner >> 1) * (tile.height - 1));
        const Projection<T> p = project(H, x, y);
        if (!(p.Z > 0 && p.x > -kFar && kFar > p.x && p.y > -kFar && kFar > p.y)) continue;
        left = lesser(left, p.x);
        right = greater(right, p.x);
        top = lesser(top, p.y);
        bottom = greater(bottom, p.y);
    }
    const int radius = plan.R / 2;
    Rectangle box{int(left) - radius, int(top) - radius, int(right - left) + plan.side, int(bottom - top) + plan.side};
    if (right < left || std::int64_t(box.width) * box.height > plan.box_pixels) box.width = box.height = 0;
    return box;
}

// Calls visit(part of the tile, box of source pixels that its windows touch) for parts of the tile, halved until the
// box fits the scratch memory and has at most twice the pixels of all windows together. `part` is relative to the tile.
template <typename T, typename Visit>
void for_each_box(const Windows<T>& windows, Rectangle part, const Plan<T>& plan, const Visit& visit) {
    int left = 0x7fffffff, right = -0x7fffffff, top = left, bottom = right, used = 0;
    for (int y = part.y; y < part.y + part.height; ++y) {
        const int *lefts = windows.left + y * plan.pitch(), *tops = windows.top + y * plan.pitch();
        const int* reach = windows.reach + y * plan.pitch();
        for (int x = part.x; x < part.x + part.width; ++x) {
            if (!reach[x]) continue;
            left = lesser(left, lefts[x]);
            right = greater(right, lefts[x]);
            top = lesser(top, tops[x]);
            bottom = greater(bottom, tops[x]);
            ++used;
        }
    }
    if (!used) return;
    const Rectangle box{left, top, right - left + plan.side, bottom - top + plan.side};
    const std::int64_t area = std::int64_t(box.width) * box.height;
    if (area <= plan.box_pixels && area <= 2 * std::int64_t(used) * plan.taps()) return visit(part, box);
    Rectangle first = part, second = part;
    if (part.width >= part.height) {
        first.width /= 2;
        second.x += first.width;
        second.width -= first.width;
    } else {
        first.height /= 2;
        second.y += first.height;
        second.height -= first.height;
    }
    for_each_box(windows, first, plan, visit);
    for_each_box(windows, second, plan, visit);
}

}  // namespace
}  // namespace VSAD_ISA
}  // namespace vsad
