// Packing pixels of tensors of any dtype and strides into vectors, and back.
//
// A packed pixel holds the channels of a batch of heads as vectors. Each vector is made of quads (4 lanes), and every
// head owns `span` quads of each vector: so one vector operation serves all heads of the batch, and the sum over a
// head's channels ends within its quads. Zeros pad a head to full vectors. Channels move as quads, four neighbors of
// one head at a time.
#pragma once

#include "cpu/arena.h"
#include "cpu/convert.h"
#include "cpu/quads.h"
#include "homography_align/cpu/kernels.h"

namespace vsad {
namespace VSAD_ISA {
namespace {

struct Rectangle {
    int x, y, width, height;
    int area() const { return width * height; }
};

// `count` channels of a tensor from `channel` on lie in a packed pixel from `lane` on.
struct Move {
    int channel, lane, count;
};

// How the channels of a tensor are packed.
template <typename T>
struct Channels {
    int heads, count;        // heads of the tensor; channels per head
    int span = 1, together;  // quads per head in each vector; heads per batch
    int batches, vectors;    // batches of heads; vectors per packed pixel of one batch
    int moves;               // entries of plan_moves

    Channels(int heads, int count) : heads(heads), count(count) {
        while (heads * span % kQuads<T>) span *= 2;  // the fewest quads with which the heads fill all batches
        together = kQuads<T> / span;
        batches = heads / together;
        vectors = (count + 4 * span - 1) / (4 * span);
        moves = together * ((count + 3) / 4);
    }
    int row() const { return vectors * kLanes<T>; }
    int batch_channels() const { return together * count; }
    bool padded() const { return count % (4 * span) != 0; }

    void plan_moves(Move* to) const {
        for (int head = 0; head < together; ++head)
            for (int quad = 0; 4 * quad < count; ++quad)
                *to++ = {head * count + 4 * quad, 4 * (quad / span * kQuads<T> + head * span + quad % span),
                         lesser(4, count - 4 * quad)};
    }
};

// The quads of a pixel that needs no padding, in the order of its packed vectors. Replaces a table of moves.
template <typename T>
struct Quads {
    std::int64_t first[kQuads<T>];  // the first channel of each quad of the first vector
    int vectors, step;

    explicit Quads(const Channels<T>& c) : vectors(c.vectors), step(4 * c.span) {
        for (int q = 0; q < kQuads<T>; ++q) first[q] = std::int64_t(q / c.span) * c.count + q % c.span * 4;
    }
    // Calls visit(channel, lane) for every quad.
    template <typename Visit>
    VSAD_HD void for_each(const Visit& visit) const {
        for (int v = 0; v < vectors; ++v)
            for (int q = 0; q < kQuads<T>; ++q) visit(first[q] + v * step, v * kLanes<T> + 4 * q);
    }
};

template <typename Element>
const Element* plane(const Image& image, std::int64_t batch, std::int64_t view, std::int64_t channel) {
    return reinterpret_cast<const Element*>(image.data) + batch * image.batch + view * image.view +
           channel * image.channel;
}

template <typename T, typename Element>
VSAD_HD Quad<T> load_quad(const Element* from) {
    if constexpr (kNarrow<Element>) {
        return load_row<Element, 4>(from);
    } else {
        Quad<T> quad;
        __builtin_memcpy(&quad, from, sizeof quad);
        return quad;
    }
}
template <typename T, typename Element>
VSAD_HD void store_quad(Element* to, Quad<T> quad) {
    if constexpr (kNarrow<Element>)
        store_row<Element, 4>(to, quad);
    else
        __builtin_memcpy(to, &quad, sizeof quad);
}

// Transposes the four quads of a 4 x 4 matrix.
template <typename T>
VSAD_HD void transpose_quads(Quad<T> (&q)[4]) {
    using Low = std::integer_sequence<int, 0, 4, 1, 5>;
    using High = std::integer_sequence<int, 2, 6, 3, 7>;
    const Quad<T> a = shuffle(q[0], q[2], Low{}), b = shuffle(q[0], q[2], High{});
    const Quad<T> c = shuffle(q[1], q[3], Low{}), d = shuffle(q[1], q[3], High{});
    q[0] = shuffle(a, c, Low{});
    q[1] = shuffle(a, c, High{});
    q[2] = shuffle(b, d, Low{});
    q[3] = shuffle(b, d, High{});
}

// Packs `width` pixels whose channels lie side by side.
template <typename T, typename Element>
VSAD_HD void pack_channels_last(T* to, const Element* from, std::int64_t step, int width, const Channels<T>& channels,
                                const Move* moves) {
    const std::int64_t row = channels.row();
    if (!channels.padded()) {
        const Quads<T> quads(channels);
        for (int x = 0; x < width; ++x, to += row, from += step)
            quads.for_each(
                [=](std::int64_t channel, int lane) { store_quad<T>(to + lane, load_quad<T>(from + channel)); });
        return;
    }
    const bool only_quads = channels.count % 4 == 0;
    for (int x = 0; x < width; ++x, to += row, from += step)
        for (int m = 0; m < channels.moves; ++m) {
            const Move move = moves[m];
            if (only_quads || move.count == 4)
                store_quad<T>(to + move.lane, load_quad<T>(from + move.channel));
            else
                for (int i = 0; i < move.count; ++i) to[move.lane + i] = widen(from[move.channel + i]);
        }
}

// Packs `width` pixels of a row; pixel x of the tensor is at from + x * strides.x.
template <typename T, typename Element>
void pack_row(T* to, const Element* from, const Image& strides, int width, const Channels<T>& channels,
              const Move* moves) {
    if (strides.channel == 1) return pack_channels_last(to, from, strides.x, width, channels, moves);
    const std::int64_t row = channels.row();
    for (int m = 0; m < channels.moves; ++m) {
        const Move move = moves[m];
        const Element* first = from + move.channel * strides.channel;
        if (strides.x != 1 || width < 4) {
            for (int x = 0; x < width; ++x)
                for (int i = 0; i < move.count; ++i)
                    to[x * row + move.lane + i] = widen(first[x * strides.x + i * strides.channel]);
            continue;
        }
        for (int x = 0; x < width; x += 4) {  // the last four pixels overlap the four before
            const int at = lesser(x, width - 4);
            Quad<T> quads[4] = {};
            for (int i = 0; i < move.count; ++i) quads[i] = load_quad<T>(first + i * strides.channel + at);
            transpose_quads<T>(quads);
            for (int i = 0; i < 4; ++i) store_quad<T>(to + (at + i) * row + move.lane, quads[i]);
        }
    }
}

// Packs `box` from an image of width x height whose pixel (0, 0) is at `from`. Beyond the image's border its border
// pixels repeat: there every weight is zero, and so is the slope across the border.
template <typename T, typename Element>
void pack(T* to, const Element* from, const Image& strides, Rectangle box, std::int64_t width, std::int64_t height,
          const Channels<T>& channels, const Move* moves) {
    const std::int64_t row = channels.row();
    if (channels.padded()) fill(to, box.area() * row, T(0));
    const int begin = greater(0, -box.x), end = int(lesser<std::int64_t>(box.width, width - box.x));
    for (int y = 0; y < box.height; ++y, to += box.width * row) {
        const std::int64_t source_y = lesser<std::int64_t>(greater(0, box.y + y), height - 1);
        pack_row(to + begin * row, from + source_y * strides.y + (box.x + begin) * strides.x, strides, end - begin,
                 channels, moves);
        for (int x = 0; x < begin; ++x) __builtin_memcpy(to + x * row, to + begin * row, row * sizeof(T));
        for (int x = end; x < box.width; ++x) __builtin_memcpy(to + x * row, to + (end - 1) * row, row * sizeof(T));
    }
}

// Writes `width` packed pixels to a row of a tensor.
template <typename T, typename Element>
void unpack_row(Element* to, const Image& strides, const T* from, int width, const Channels<T>& channels,
                const Move* moves) {
    const std::int64_t row = channels.row();
    for (int m = 0; m < channels.moves; ++m) {
        const Move move = moves[m];
        Element* first = to + move.channel * strides.channel;
        if (strides.channel == 1 && move.count == 4) {
            for (int x = 0; x < width; ++x)
                store_quad<T>(first + x * strides.x, load_quad<T>(from + x * row + move.lane));
        } else if (strides.x == 1 && width >= 4) {
            for (int x = 0; x < width; x += 4) {
                const int at = lesser(x, width - 4);
                Quad<T> quads[4];
                for (int i = 0; i < 4; ++i) quads[i] = load_quad<T>(from + (at + i) * row + move.lane);
                transpose_quads<T>(quads);
                for (int i = 0; i < move.count; ++i) store_quad<T>(first + i * strides.channel + at, quads[i]);
            }
        } else {
            for (int x = 0; x < width; ++x)
                for (int i = 0; i < move.count; ++i)
                    first[x * strides.x + i * strides.channel] = narrow<Element>(from[x * row + move.lane + i]);
        }
    }
}

// Adds the part of a packed box that lies in the image of width x height to a dense channels-last tensor whose pixels
// lie `pixel_stride` apart.
template <typename T>
void add_box(T* to, std::int64_t pixel_stride, const T* box, Rectangle at, std::int64_t width, std::int64_t height,
             const Channels<T>& channels, const Move* moves) {
    const std::int64_t row = channels.row();
    const Quads<T> quads(channels);
    for (int y = greater(0, -at.y); y < at.height && at.y + y < height; ++y)
        for (int x = greater(0, -at.x); x < at.width && at.x + x < width; ++x) {
            const T* from = box + (std::int64_t(y) * at.width + x) * row;
            T* pixel = to + ((at.y + y) * width + at.x + x) * pixel_stride;
            if (!channels.padded()) {
                quads.for_each([=](std::int64_t channel, int lane) {
                    store_quad<T>(pixel + channel, load_quad<T>(pixel + channel) + load_quad<T>(from + lane));
                });
                continue;
            }
            for (int m = 0; m < channels.moves; ++m)
                for (int i = 0; i < moves[m].count; ++i) pixel[moves[m].channel + i] += from[moves[m].lane + i];
        }
}

}  // namespace
}  // namespace VSAD_ISA
}  // namespace vsad
