// What stands between the products of a transformer, in one pass each.
//
// LayerNorm of float32 or bf16 into bf16, as the product behind it reads it; its twin is torch's layer_norm and a cast.
//
// The sum of float32 and bf16, where torch casts first and then adds.

#include <cmath>

#include "lanes.h"

namespace {

// (row - mean) / √(variance + eps) · weight + bias of one row.
template <typename T>
void norm_row(const T* row, const float* weight, const float* bias, int64_t width, float eps, uint16_t* result) {
    __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
    for (int64_t at = 0; at < width; at += LANES) {
        sum = _mm512_add_ps(sum, read(row + at, inside(at, width)));
    }
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / (float)width);
    for (int64_t at = 0; at < width; at += LANES) {
        const __mmask16 here = inside(at, width);
        const __m512 apart = _mm512_maskz_sub_ps(here, read(row + at, here), mean);
        squares = _mm512_fmadd_ps(apart, apart, squares);
    }
    const float variance = _mm512_reduce_add_ps(squares) / (float)width;
    const __m512 scale = _mm512_set1_ps(1.f / std::sqrt(variance + eps));
    for (int64_t at = 0; at < width; at += LANES) {
        const __mmask16 here = inside(at, width);
        const __m512 apart = _mm512_sub_ps(read(row + at, here), mean);
        const __m512 factor = _mm512_mul_ps(scale, read(weight + at, here));
        const __m512 values = _mm512_fmadd_ps(apart, factor, read(bias + at, here));
        _mm256_mask_storeu_epi16(result + at, here, (__m256i)_mm512_cvtneps_pbh(values));
    }
}

template <typename T>
void norm_rows(const T* rows, const float* weight, const float* bias, uint16_t* results, int64_t count, int64_t width,
               float eps, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < count; ++row) {
        norm_row(rows + row * width, weight, bias, width, eps, results + row * width);
    }
}

}  // namespace

extern "C" {

// LayerNorm of rows that lie one behind the other, of float32 or of bf16.
void norm(const float* rows, const float* weight, const float* bias, uint16_t* results, int64_t count, int64_t width,
          float eps, int threads) {
    norm_rows(rows, weight, bias, results, count, width, eps, threads);
}
void norm_bf16(const uint16_t* rows, const float* weight, const float* bias, uint16_t* results, int64_t count,
               int64_t width, float eps, int threads) {
    norm_rows(rows, weight, bias, results, count, width, eps, threads);
}

// results = left + right of as many numbers.
void add(const float* left, const uint16_t* right, float* results, int64_t count, int threads) {
    const int64_t lines = up(count, LANES) / LANES;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t line = 0; line < lines; ++line) {
        const int64_t at = line * LANES;
        const __mmask16 here = inside(at, count);
        _mm512_mask_storeu_ps(results + at, here, _mm512_add_ps(read(left + at, here), read(right + at, here)));
    }
}
}
