// SPDX-License-Identifier: Apache-2.0
// Polar factors, one matrix after another; compiled once per instruction set.
#include "polar.h"
#include "simd.h"

namespace symfast {
namespace SYMFAST_ISA {
namespace {

// Rows of a register tile: as many sums in flight as registers allow.
#if defined(__AVX512F__)
constexpr int kRows = 8;
#else
constexpr int kRows = 4;
#endif

// C (kRows, V vectors) = sum over k of a[row * by_row + k * by_k] b[k * width + column]
template <int V, typename T>
SF_INLINE void tile(const T* a, int64_t by_row, int64_t by_k, const T* b, T* c, int64_t width,
                    int64_t depth) {
  Vec<T> sums[kRows][V];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < V; ++v) sums[r][v] = Vec<T>{};
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vec<T> row[V];
    for (int v = 0; v < V; ++v) row[v] = load(b + k * width + v * kLanes<T>);
    for (int r = 0; r < kRows; ++r) {
      const T scale = a[r * by_row + k * by_k];
      for (int v = 0; v < V; ++v) sums[r][v] += scale * row[v];
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < V; ++v) store(c + r * width + v * kLanes<T>, sums[r][v]);
  }
}

// Columns first to width of kRows rows of C, two registers at a time.
template <typename T>
void band(const T* a, int64_t by_row, int64_t by_k, const T* b, T* c, int64_t first, int64_t width,
          int64_t depth) {
  constexpr int64_t W = kLanes<T>;
  int64_t j = first;
  for (; j + 2 * W <= width; j += 2 * W) tile<2>(a, by_row, by_k, b + j, c + j, width, depth);
  for (; j < width; j += W) tile<1>(a, by_row, by_k, b + j, c + j, width, depth);
}

// G = X^T X: the upper part by tiles, the lower by symmetry. The margin of X is zero.
template <typename T>
void gram(const T* x, T* g, int64_t width, int64_t d) {
  for (int64_t i = 0; i < width; i += kRows) {
    band(x + i, 1, width, x, g + i * width, i / kLanes<T> * kLanes<T>, width, d);
  }
  for (int64_t i = 1; i < width; ++i) {
    for (int64_t j = 0; j < i; ++j) g[i * width + j] = g[j * width + i];
  }
}

// ||G||_F; the margin of G is zero. A row in T, whose rounding is far below what the norm decides.
template <typename T>
double norm(const T* g, int64_t width, int64_t d) {
  double squares = 0;
  for (int64_t i = 0; i < d; ++i) {
    Vec<T> row{};
    for (int64_t j = 0; j < width; j += kLanes<T>) {
      const Vec<T> x = load(g + i * width + j);
      row += x * x;
    }
    squares += double(sum(row));
  }
  return __builtin_sqrt(squares);
}

// ||G - I||_F. G is as before afterwards; `kept` has room for its diagonal.
template <typename T>
double distance(T* g, T* kept, int64_t width, int64_t d) {
  for (int64_t i = 0; i < d; ++i) {
    kept[i] = g[i * width + i];
    g[i * width + i] -= 1;
  }
  const double found = norm(g, width, d);
  for (int64_t i = 0; i < d; ++i) g[i * width + i] = kept[i];
  return found;
}

// X (width, width) from A (d, d) over its largest entry; false for zero or non-finite matrices.
template <typename T>
bool read(const T* a, T* x, int64_t width, int64_t d) {
  T most = 0;
  bool finite = true;
  for (int64_t i = 0; i < d * d; ++i) {
    const T size = a[i] < 0 ? -a[i] : a[i];
    finite &= size - size == 0;  // false for NaN and infinity
    most = size > most ? size : most;
  }
  for (int64_t i = 0; i < width * width; ++i) x[i] = 0;
  if (!finite || most == 0) return false;
  for (int64_t i = 0; i < d; ++i) {
    for (int64_t j = 0; j < d; ++j) x[i * width + j] = a[i * d + j] / most;
  }
  return true;
}

template <typename T>
bool iterate(const T* a, T* q, T* scratch, int64_t width, int64_t d) {
  T *x = scratch, *next = x + width * width, *g = next + width * width;
  bool converged = false;
  if (read(a, x, width, d)) {
    double low = kPolarLow, scale = 1;
    for (int step = 0; step < kPolarSteps && !converged; ++step) {
      gram(x, g, width, d);
      // ||X^T X||_F bounds the square of the largest singular value; scale it to 1 once
      if (step == 0) scale = 1 / __builtin_sqrt(norm(g, width, d));
      converged = step > 0 && distance(g, next, width, d) < kPolarNear<T>;
      if (converged) low = 1;
      const PolarStep by = polar_step(low);
      const T to_gram = static_cast<T>(by.gram * scale * scale * scale);
      const T to_identity = static_cast<T>(by.identity * scale);
      for (int64_t i = 0; i < width * width; ++i) g[i] *= to_gram;
      for (int64_t i = 0; i < d; ++i) g[i * width + i] += to_identity;
      for (int64_t i = 0; i < width; i += kRows) {
        band(x + i * width, width, 1, g, next + i * width, 0, width, d);
      }
      T* const swapped = x;
      x = next;
      next = swapped;
      scale = 1;
    }
  }
  for (int64_t i = 0; i < d; ++i) {
    for (int64_t j = 0; j < d; ++j) q[i * d + j] = x[i * width + j];
  }
  return converged;
}

template <typename T>
void run(const PolarCall& call, int64_t begin, int64_t end, void* scratch) {
  const int64_t size = call.d * call.d;
  for (int64_t i = begin; i < end; ++i) {
    call.converged[i] =
        iterate(static_cast<const T*>(call.a) + i * size, static_cast<T*>(call.q) + i * size,
                static_cast<T*>(scratch), call.width, call.d);
  }
}

}  // namespace

void polar_run(const PolarCall& call, int64_t begin, int64_t end, void* scratch) {
  if (call.number == Number::f64) return run<double>(call, begin, end, scratch);
  run<float>(call, begin, end, scratch);
}

int64_t polar_width(int64_t d) {  // whole registers of either type, whole tiles
  constexpr int64_t unit = kLanes<float> < 8 ? 8 : kLanes<float>;
  return (d + unit - 1) / unit * unit;
}

}  // namespace SYMFAST_ISA
}  // namespace symfast
