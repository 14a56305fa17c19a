// Registers of 16 numbers, and what the kernels do with them. For processors with AVX512-BF16.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace {

constexpr int64_t LANES = 16;   // float32 numbers of a register
constexpr int64_t BLOCK = 64;   // keys, or numbers of a head, that are worked on together: four registers
constexpr int64_t ROWS = 6;     // queries at a time: with BLOCK they fill 24 of the 32 registers with sums
constexpr float LOG2E = 1.44269504088896340736f;
constexpr float C1 = 0.69328291f, C2 = 0.24220985f, C3 = 0.05500796f;  // 2^x on -½ … ½, least largest relative error

// A number of rows that the compiler knows.
template <int N>
using Count = std::integral_constant<int, N>;

inline int64_t up(int64_t count, int64_t step) { return (count + step - 1) / step * step; }

// The numbers of a row from ``at`` on: all 16, or those that are left, and zeros.
inline __mmask16 inside(int64_t at, int64_t width) { return (__mmask16)((1u << std::min(LANES, width - at)) - 1u); }

inline __m512bh pairs(__m512i bits) { return (__m512bh)bits; }

inline uint32_t pair_at(const uint16_t* numbers) {
    uint32_t both;
    std::memcpy(&both, numbers, sizeof both);
    return both;
}

// Numbers of either type, as float32; zeros where ``here`` says nothing.
inline __m512 read(const float* numbers, __mmask16 here) { return _mm512_maskz_loadu_ps(here, numbers); }
inline __m512 read(const uint16_t* numbers, __mmask16 here) {
    const __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(here, numbers));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

// 16 numbers rounded to bf16.
inline void store(uint16_t* numbers, __m512 values) {
    _mm256_storeu_si256((__m256i*)numbers, (__m256i)_mm512_cvtneps_pbh(values));
}

// Two times 16 numbers rounded to bf16, each lane with one of both: the first in its lower half.
inline __m512i side_by_side(__m512 first, __m512 second) {
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(first));
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(second));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

// 2^x for x <= 0, to 1e-4 of the result: a fortieth of a step of the bf16 that it becomes.
inline __m512 exp2_of(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-150.f), x);  // In this order a NaN stays one.
    const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 part = _mm512_sub_ps(x, whole);
    __m512 sum = _mm512_fmadd_ps(_mm512_set1_ps(C3), part, _mm512_set1_ps(C2));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(C1));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(1.f));
    return _mm512_scalef_ps(sum, whole);
}

// 16 rows of 16 pairs into 16 pairs of 16 rows.
inline void transpose(__m512i (&rows)[LANES]) {
    __m512i half[LANES];
    for (int i = 0; i < 16; i += 2) {
        half[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        half[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        rows[i] = _mm512_unpacklo_epi64(half[i], half[i + 2]);
        rows[i + 1] = _mm512_unpackhi_epi64(half[i], half[i + 2]);
        rows[i + 2] = _mm512_unpacklo_epi64(half[i + 1], half[i + 3]);
        rows[i + 3] = _mm512_unpackhi_epi64(half[i + 1], half[i + 3]);
    }
    // Each register now has, in its quarter q, pair 4 q + i % 4 of four rows; whole quarters change places from here.
    for (int i = 0; i < 4; ++i) {
        half[i] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0x88);
        half[i + 4] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0xdd);
        half[i + 8] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0x88);
        half[i + 12] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; ++i) {
        rows[i] = _mm512_shuffle_i32x4(half[i], half[i + 8], 0x88);
        rows[i + 4] = _mm512_shuffle_i32x4(half[i + 4], half[i + 12], 0x88);
        rows[i + 8] = _mm512_shuffle_i32x4(half[i], half[i + 8], 0xdd);
        rows[i + 12] = _mm512_shuffle_i32x4(half[i + 4], half[i + 12], 0xdd);
    }
}

}  // namespace
