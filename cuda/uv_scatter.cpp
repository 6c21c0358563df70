// UV scatter: features of an image lifted onto the texture map, and the derivatives. Plain C interface;
// ntdm/uv_scatter.py states shapes and equations and holds the torch twin.
//
// One thread owns one image and visits its quads in raster order, so sums have one order whatever the number
// of threads. Geometry is done in double for both element types: it decides which texels a quad owns.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

struct Point {
    double u, v;
};

inline Point operator-(Point a, Point b) {
    return {a.u - b.u, a.v - b.v};
}
inline double cross(Point a, Point b) {
    return a.u * b.v - a.v * b.u;
}

// b - a, with u the short way round its period.
inline Point wrapped_difference(Point b, Point a) {
    const double du = b.u - a.u;
    return {du - std::round(du), b.v - a.v};
}

// True if x lies to the left of the line a -> b, or on it. Two quads that share an edge call this with the
// same two pixels in the same order (right or down in the image), hence get the same answer and take opposite
// sides: a texel on a shared edge has exactly one owner. The explicit fma leaves the compiler nothing to
// contract differently at different call sites; corners are told apart because a fused product is not 0
// there.
inline bool left_of(Point a, Point b, Point x) {
    const Point edge = wrapped_difference(b, a), to = wrapped_difference(x, a);
    if ((to.u == 0 && to.v == 0) || (to.u == edge.u && to.v == edge.v)) return true;
    return std::fma(edge.u, to.v, -(edge.v * to.u)) >= 0;
}

struct Hit {
    int64_t texel;
    int64_t pixel;  // of the quad's first corner
    double s, t;    // the texel centre, along the quad's row and column
};

// A quad's four corners, in the order of w = ((1-s)(1-t), s(1-t), (1-s)t, st).
struct Quad {
    Point corner[4];   // as given
    Point e1, e2, e3;  // X(s, t) = corner[0] + s e1 + t e2 + s t e3
    double u_low, u_high, v_low, v_high;
    bool positive;  // s to t turns from +u to +v

    // False if the quad is wider than the extent, degenerate, or not convex.
    bool set(const Point* at, double max_extent) {
        std::copy(at, at + 4, corner);
        Point rel[4];
        for (int k = 0; k < 4; ++k) rel[k] = wrapped_difference(corner[k], corner[0]);
        e1 = rel[1];
        e2 = rel[2];
        e3 = {rel[3].u - rel[1].u - rel[2].u, rel[3].v - rel[1].v - rel[2].v};
        u_low = u_high = v_low = v_high = 0;
        for (int k = 1; k < 4; ++k) {
            u_low = std::min(u_low, rel[k].u);
            u_high = std::max(u_high, rel[k].u);
            v_low = std::min(v_low, rel[k].v);
            v_high = std::max(v_high, rel[k].v);
        }
        if (u_high - u_low > max_extent || v_high - v_low > max_extent) return false;
        // The turn at each corner, walking 0 1 3 2: all of one sign in a convex quad.
        const double turn[4] = {
            cross(rel[1] - rel[0], rel[2] - rel[0]), cross(rel[3] - rel[1], rel[0] - rel[1]),
            cross(rel[2] - rel[3], rel[1] - rel[3]), cross(rel[0] - rel[2], rel[3] - rel[2])};
        positive = turn[0] > 0;
        for (double value : turn)
            if (positive ? !(value > 0) : !(value < 0)) return false;
        return true;
    }

    bool contains(Point x) const {
        return left_of(corner[0], corner[1], x) == positive && left_of(corner[1], corner[3], x) == positive &&
               left_of(corner[2], corner[3], x) != positive && left_of(corner[0], corner[2], x) != positive;
    }

    // Inverse bilinear of a point inside. Eliminating s leaves k0 + k1 t + k2 t^2 = 0, whose derivative at
    // the root is det J; inside a convex quad that has the sign of the orientation, which picks the root.
    void invert(Point x, double* s, double* t) const {
        const Point h = wrapped_difference(x, corner[0]);
        const double k0 = cross(h, e1), k1 = cross(h, e3) - cross(e2, e1), k2 = -cross(e2, e3);
        const double root = std::sqrt(std::max(k1 * k1 - 4 * k0 * k2, 0.0)) * (positive ? 1 : -1);
        // Two forms of one root; take the one that adds magnitudes.
        double at = (k1 < 0) != (root < 0) ? (root - k1) / (2 * k2) : -2 * k0 / (k1 + root);
        at = std::min(std::max(at, 0.0), 1.0);
        const Point along = {e1.u + at * e3.u, e1.v + at * e3.v};
        const double rest_u = h.u - at * e2.u, rest_v = h.v - at * e2.v;
        const double from = std::abs(along.u) > std::abs(along.v) ? rest_u / along.u : rest_v / along.v;
        *t = at;
        *s = std::min(std::max(from, 0.0), 1.0);
    }
};

struct Shape {
    int64_t batch, h, w, d, q;
    double max_extent;
};

// Every (texel, quad) pair of one image, in raster order of quads. Returns false on a covered uv that is not
// finite.
template <typename T>
bool find_hits(const T* uv, const uint8_t* coverage, const Shape& shape, std::vector<Hit>* hits) {
    const int64_t h = shape.h, w = shape.w, q = shape.q;
    hits->clear();
    for (int64_t p = 0; p < h * w; ++p)
        if (coverage[p] && !(std::isfinite(uv[2 * p]) && std::isfinite(uv[2 * p + 1]))) return false;
    // Candidates are widened by a hair; contains() decides.
    const double hair = 1e-6;
    Quad quad;
    for (int64_t i = 0; i + 1 < h; ++i)
        for (int64_t j = 0; j + 1 < w; ++j) {
            const int64_t first = i * w + j;
            const int64_t pixel[4] = {first, first + 1, first + w, first + w + 1};
            if (!(coverage[pixel[0]] && coverage[pixel[1]] && coverage[pixel[2]] && coverage[pixel[3]]))
                continue;
            Point at[4];
            for (int k = 0; k < 4; ++k) {
                const double u = uv[2 * pixel[k]];
                at[k] = {u - std::floor(u), static_cast<double>(uv[2 * pixel[k] + 1])};
            }
            if (!quad.set(at, shape.max_extent)) continue;
            const double u0 = at[0].u, v0 = at[0].v;
            const double row_low = std::max(std::ceil((v0 + quad.v_low) * q - 0.5 - hair), 0.0);
            const double row_high = std::min(std::floor((v0 + quad.v_high) * q - 0.5 + hair), q - 1.0);
            const int64_t left = static_cast<int64_t>(std::ceil((u0 + quad.u_low) * q - 0.5 - hair));
            const int64_t right = static_cast<int64_t>(std::floor((u0 + quad.u_high) * q - 0.5 + hair));
            for (double row = row_low; row <= row_high; ++row)
                for (int64_t free_column = left; free_column <= right; ++free_column) {
                    const int64_t column = ((free_column % q) + q) % q;
                    const Point x = {(column + 0.5) / q, (row + 0.5) / q};
                    if (!quad.contains(x)) continue;
                    Hit hit = {static_cast<int64_t>(row) * q + column, first, 0, 0};
                    quad.invert(x, &hit.s, &hit.t);
                    hits->push_back(hit);
                }
        }
    return true;
}

template <typename T>
void scatter(const T* features, const std::vector<Hit>& hits, const Shape& shape, T* mean, T* weight) {
    const int64_t w = shape.w, d = shape.d, q = shape.q;
    std::fill(weight, weight + q * q, T(0));
    std::fill(mean, mean + q * q * d, T(0));
    for (const Hit& hit : hits) weight[hit.texel] += 1;
    for (const Hit& hit : hits) {
        const T share = 1 / weight[hit.texel];
        const T s = static_cast<T>(hit.s), t = static_cast<T>(hit.t);
        const T w0 = (1 - s) * (1 - t) * share, w1 = s * (1 - t) * share, w2 = (1 - s) * t * share,
                w3 = s * t * share;
        const T *f0 = features + hit.pixel * d, *f1 = f0 + d, *f2 = f0 + w * d, *f3 = f2 + d;
        T* out = mean + hit.texel * d;
#pragma omp simd
        for (int64_t c = 0; c < d; ++c) out[c] += w0 * f0[c] + w1 * f1[c] + w2 * f2[c] + w3 * f3[c];
    }
}

// feature_grad and uv_grad may be null: not wanted.
template <typename T>
void scatter_backward(const T* mean_grad, const T* features, const T* uv, const std::vector<Hit>& hits,
                      const Shape& shape, T* feature_grad, T* uv_grad, std::vector<int32_t>* count) {
    const int64_t w = shape.w, d = shape.d, q = shape.q;
    if (feature_grad) std::fill(feature_grad, feature_grad + shape.h * w * d, T(0));
    if (uv_grad) std::fill(uv_grad, uv_grad + shape.h * w * 2, T(0));
    count->assign(q * q, 0);
    for (const Hit& hit : hits) ++(*count)[hit.texel];
    for (const Hit& hit : hits) {
        const double s = hit.s, t = hit.t, share = 1.0 / (*count)[hit.texel];
        const double weight[4] = {(1 - s) * (1 - t), s * (1 - t), (1 - s) * t, s * t};
        const int64_t pixel[4] = {hit.pixel, hit.pixel + 1, hit.pixel + w, hit.pixel + w + 1};
        const T* grad = mean_grad + hit.texel * d;
        if (feature_grad) {  // Eq. 12
            const T w0 = T(weight[0] * share), w1 = T(weight[1] * share), w2 = T(weight[2] * share);
            const T w3 = T(weight[3] * share);
            // Two rows of pixels: four runs that do not overlap, for d channels each.
            T *g0 = feature_grad + pixel[0] * d, *g1 = g0 + d, *g2 = g0 + w * d, *g3 = g2 + d;
#pragma omp simd
            for (int64_t c = 0; c < d; ++c) {
                g0[c] += w0 * grad[c];
                g1[c] += w1 * grad[c];
                g2[c] += w2 * grad[c];
                g3[c] += w3 * grad[c];
            }
        }
        if (!uv_grad) continue;
        // a = dL/d(s, t): the upstream gradient contracted with dF/ds, dF/dt over channels.
        const T *f0 = features + pixel[0] * d, *f1 = f0 + d, *f2 = f0 + w * d, *f3 = f2 + d;
        T dot0 = 0, dot1 = 0, dot2 = 0, dot3 = 0;
#pragma omp simd reduction(+ : dot0, dot1, dot2, dot3)
        for (int64_t c = 0; c < d; ++c) {
            dot0 += grad[c] * f0[c];
            dot1 += grad[c] * f1[c];
            dot2 += grad[c] * f2[c];
            dot3 += grad[c] * f3[c];
        }
        const double a_s = share * ((1 - t) * (double(dot1) - dot0) + t * (double(dot3) - dot2));
        const double a_t = share * ((1 - s) * (double(dot2) - dot0) + s * (double(dot3) - dot1));
        Point at[4];
        for (int k = 0; k < 4; ++k) {
            const Point here = {uv[2 * pixel[k]], uv[2 * pixel[k] + 1]};
            at[k] = wrapped_difference(here, {uv[2 * pixel[0]], uv[2 * pixel[0] + 1]});
        }
        const Point x_s = {(1 - t) * (at[1].u - at[0].u) + t * (at[3].u - at[2].u),
                           (1 - t) * (at[1].v - at[0].v) + t * (at[3].v - at[2].v)};
        const Point x_t = {(1 - s) * (at[2].u - at[0].u) + s * (at[3].u - at[1].u),
                           (1 - s) * (at[2].v - at[0].v) + s * (at[3].v - at[1].v)};
        // J = [x_s x_t] (columns); d(s, t)/dU_k = -w_k J^-1.
        const double det = cross(x_s, x_t);
        const double of_u = -(a_s * x_t.v - a_t * x_s.v) / det, of_v = -(a_t * x_s.u - a_s * x_t.u) / det;
        for (int k = 0; k < 4; ++k) {
            uv_grad[2 * pixel[k]] += T(weight[k] * of_u);
            uv_grad[2 * pixel[k] + 1] += T(weight[k] * of_v);
        }
    }
}

// Returns -1, or the first image with a covered uv that is not finite.
template <typename T>
int64_t forward(const T* features, const T* uv, const uint8_t* coverage, const Shape& shape, T* mean,
                T* weight, int threads) {
    const int64_t pixels = shape.h * shape.w, texels = shape.q * shape.q, d = shape.d;
    int64_t bad = shape.batch;
#pragma omp parallel num_threads(threads) if (shape.batch > 1)
    {
        std::vector<Hit> hits;
#pragma omp for schedule(dynamic) reduction(min : bad)
        for (int64_t n = 0; n < shape.batch; ++n) {
            if (find_hits(uv + n * pixels * 2, coverage + n * pixels, shape, &hits))
                scatter(features + n * pixels * d, hits, shape, mean + n * texels * d, weight + n * texels);
            else
                bad = std::min(bad, n);
        }
    }
    return bad == shape.batch ? -1 : bad;
}

template <typename T>
void backward(const T* mean_grad, const T* features, const T* uv, const uint8_t* coverage, const Shape& shape,
              T* feature_grad, T* uv_grad, int threads) {
    const int64_t pixels = shape.h * shape.w, texels = shape.q * shape.q, d = shape.d;
#pragma omp parallel num_threads(threads) if (shape.batch > 1)
    {
        std::vector<Hit> hits;
        std::vector<int32_t> count;
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < shape.batch; ++n) {
            find_hits(uv + n * pixels * 2, coverage + n * pixels, shape, &hits);
            scatter_backward(mean_grad + n * texels * d, features + n * pixels * d, uv + n * pixels * 2, hits,
                             shape, feature_grad ? feature_grad + n * pixels * d : nullptr,
                             uv_grad ? uv_grad + n * pixels * 2 : nullptr, &count);
        }
    }
}

}  // namespace

#define NTDM_UV_SCATTER(NAME, T)                                                                             \
    extern "C" int64_t NAME(const T* features, const T* uv, const uint8_t* coverage, int64_t batch,          \
                            int64_t h, int64_t w, int64_t d, int64_t q, double max_extent, T* mean,          \
                            T* weight, int threads) {                                                        \
        return forward<T>(features, uv, coverage, {batch, h, w, d, q, max_extent}, mean, weight, threads);   \
    }                                                                                                        \
    extern "C" void NAME##_backward(const T* mean_grad, const T* features, const T* uv,                      \
                                    const uint8_t* coverage, int64_t batch, int64_t h, int64_t w, int64_t d, \
                                    int64_t q, double max_extent, T* feature_grad, T* uv_grad,               \
                                    int threads) {                                                           \
        backward<T>(mean_grad, features, uv, coverage, {batch, h, w, d, q, max_extent}, feature_grad,        \
                    uv_grad, threads);                                                                       \
    }

NTDM_UV_SCATTER(ntdm_uv_scatter_f32, float)
NTDM_UV_SCATTER(ntdm_uv_scatter_f64, double)
