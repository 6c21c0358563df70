// Pixels in groups of up to eight neighbours, one vector lane each, and the faces near each group.
//
// Only active pixels near some face cost anything: groups are made strip by strip (four rows), and two passes
// over bounding boxes, first for the strip, then for the group, leave the faces that can reach it, in face
// order.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "lanes.h"
#include "outline.h"

namespace ntdm {

// Rows of pixels from which groups are made, and the most columns a group spans.
constexpr int kStrip = 4;

// Bounding boxes as arrays, for the passes that look for a group's faces.
template <typename T>
struct Boxes {
    std::vector<T> left, right, top, bottom;
    std::vector<int32_t> face;
    int64_t count = 0;

    explicit Boxes(int64_t capacity)
        : left(capacity), right(capacity), top(capacity), bottom(capacity), face(capacity) {}
};

// Up to eight neighbouring pixels. Lanes beyond count repeat the first pixel; their results are not used.
template <typename T>
struct Group {
    typename Lanes<T>::Value x, y;  // centres
    int pixel[kLanes], count = 0;
    T left, right, top, bottom;  // of the centres

    void add(int row, int column, int width) {
        const T cx = T(column + 0.5), cy = T(row + 0.5);
        if (count == 0) {
            x = typename Lanes<T>::Value{} + cx, y = typename Lanes<T>::Value{} + cy;
            left = right = cx, top = bottom = cy;
        }
        x[count] = cx, y[count] = cy;
        right = cx;  // columns come in order
        top = std::min(top, cy), bottom = std::max(bottom, cy);
        pixel[count++] = row * width + column;
    }
};

// Calls take(i, flags[i]) for every i < count in words of flags that are not all 0. take must advance by the
// flag instead of asking for it: which of eight boxes are near is not predictable.
template <typename Take>
inline void each_flag(const uint8_t* flags, int64_t count, Take take) {
    for (int64_t i = 0; i < count; i += 8) {
        uint64_t word;
        std::memcpy(&word, flags + i, sizeof word);
        if (!word) continue;
        for (int64_t j = i; j < std::min(i + 8, count); ++j) take(j, flags[j]);
    }
}

// What one thread needs again for every item.
template <typename T>
struct Scratch {
    std::vector<Vertex> projected;
    std::vector<Outline<T>> outlines;
    Boxes<T> boxes, strip;
    std::vector<int32_t> near_faces;
    std::vector<uint8_t> flags, active;

    Scratch(int64_t vertex_count, int64_t face_count, int64_t pixels)
        : projected(vertex_count),
          outlines(face_count),
          boxes(face_count),
          strip(face_count + 1),
          near_faces(face_count + 1),
          flags(face_count + 8),
          active(pixels) {}
};

// Outlines and boxes of the faces whose corners are all usable.
template <typename T>
void prepare(const int64_t* faces, int64_t face_count, Scratch<T>& scratch) {
    const Vertex* vertices = scratch.projected.data();
    Boxes<T>& boxes = scratch.boxes;
    boxes.count = 0;
    for (int64_t f = 0; f < face_count; ++f) {
        Outline<T>& out = scratch.outlines[f];
        if (!outline(vertices, faces + 3 * f, &out)) continue;
        const int64_t i = boxes.count++;
        boxes.left[i] = out.left(), boxes.right[i] = out.right();
        boxes.top[i] = out.top(), boxes.bottom[i] = out.bottom();
        boxes.face[i] = int32_t(f);
    }
}

// Which boxes overlap a range of rows. Bare pointers: bytes may alias anything, and then no loop becomes
// vectors.
template <typename T>
void flag_rows(const Boxes<T>& boxes, T low, T high, uint8_t* __restrict flags) {
    const T* __restrict top = boxes.top.data(), * __restrict bottom = boxes.bottom.data();
    const int64_t count = boxes.count;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) flags[i] = (bottom[i] >= low) & (top[i] <= high);
}

// Which boxes come nearer to the group's box than the square root of limit.
template <typename T>
void flag_near(const Boxes<T>& boxes, const Group<T>& group, T limit, uint8_t* __restrict flags) {
    const T* __restrict left = boxes.left.data(), * __restrict right = boxes.right.data();
    const T* __restrict top = boxes.top.data(), * __restrict bottom = boxes.bottom.data();
    const T group_left = group.left, group_right = group.right, group_top = group.top,
            group_bottom = group.bottom;
    const int64_t count = boxes.count;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
        const T x0 = group_left - right[i], x1 = left[i] - group_right;
        const T y0 = group_top - bottom[i], y1 = top[i] - group_bottom;
        T x = x0 > x1 ? x0 : x1, y = y0 > y1 ? y0 : y1;
        x = x > 0 ? x : T(0), y = y > 0 ? y : T(0);
        flags[i] = x * x + y * y <= limit;
    }
}

// Calls visit(group, faces, how many) for every group of active pixels that some face may reach.
template <typename T, typename Visit>
void visit_groups(Scratch<T>& scratch, int height, int width, T reach, Visit visit) {
    const T far = reach * T(1.001);  // the exact test is made a pixel at a time; this one must not lose any
    const T limit = far * far;
    const Boxes<T>& boxes = scratch.boxes;
    Boxes<T>& strip = scratch.strip;
    uint8_t* flags = scratch.flags.data();
    for (int top = 0; top < height; top += kStrip) {
        const int bottom = std::min(top + kStrip, height);
        const T low = T(top + 0.5) - far, high = T(bottom - 0.5) + far;
        flag_rows(boxes, low, high, flags);
        strip.count = 0;
        each_flag(flags, boxes.count, [&](int64_t i, uint8_t flag) {
            const int64_t to = strip.count;
            strip.left[to] = boxes.left[i], strip.right[to] = boxes.right[i];
            strip.top[to] = boxes.top[i], strip.bottom[to] = boxes.bottom[i];
            strip.face[to] = boxes.face[i];
            strip.count += flag;
        });

        T strip_left = std::numeric_limits<T>::infinity(), strip_right = -strip_left;
        for (int64_t i = 0; i < strip.count; ++i) {
            strip_left = std::min(strip_left, strip.left[i]);
            strip_right = std::max(strip_right, strip.right[i]);
        }

        Group<T> group;
        const auto finish = [&] {
            flag_near(strip, group, limit, flags);
            int32_t found = 0;
            each_flag(flags, strip.count, [&](int64_t i, uint8_t flag) {
                scratch.near_faces[found] = strip.face[i];
                found += flag;
            });
            if (found) visit(group, scratch.near_faces.data(), found);
            group.count = 0;
        };
        int first = 0;  // column of the group's first pixel
        for (int c = 0; c < width; ++c) {
            if (T(c + 0.5) < strip_left - far || T(c + 0.5) > strip_right + far) continue;
            if (group.count && c - first >= kStrip) finish();
            for (int r = top; r < bottom; ++r) {
                if (!scratch.active[r * width + c]) continue;
                if (group.count == 0) first = c;
                group.add(r, c, width);
                if (group.count == kLanes) finish();
            }
        }
        if (group.count) finish();
    }
}

}  // namespace ntdm
