// What attention and its gradient share: where queries, keys and values lie, how they are laid out for the processor's
// product of pairs, and the two products that all others are made of.

#pragma once

#include <cstdlib>

#include "lanes.h"

namespace {

// One of queries, keys, values, results or their gradients: bf16, the numbers of a head side by side. Strides count
// numbers.
struct Heads {
    uint16_t* data;
    int64_t batch, head, row;
    uint16_t* at(int64_t b, int64_t h, int64_t r) const { return data + b * batch + h * head + r * row; }
};

// What is added to the scores, float32; a stride of 0 says the same for all. Without data: nothing.
// There are ``count`` of them, and then the first again.
struct Bias {
    const float* data;
    int64_t batch, head, row, key, count;
    const float* at(int64_t b, int64_t h, int64_t r) const {
        return data == nullptr ? nullptr : data + b % count * batch + h * head + r * row;
    }
    // 16 numbers of a row.
    __m512 read(const float* row, int64_t at, __mmask16 here) const {
        return key ? _mm512_maskz_loadu_ps(here, row + at) : _mm512_set1_ps(*row);
    }
};

struct Sizes {
    int64_t batch, heads, queries, keys, dim;
};

// Memory of one thread, given back in the end.
template <typename T>
struct Memory {
    T* data;
    explicit Memory(int64_t count) : data((T*)std::aligned_alloc(64, (size_t)up(count * (int64_t)sizeof(T), 64))) {}
    ~Memory() { std::free(data); }
    Memory(const Memory&) = delete;
    operator T*() const { return data; }
};

// Rows as (block of 64 rows, pair of the head's numbers, row): what 16 lanes read for one pair lies side by side.
inline void pack_across(const Heads& heads, int64_t b, int64_t h, int64_t count, int64_t dim, uint32_t* packed) {
    const int64_t steps = dim / 2;
    for (int64_t start = 0; start < count; start += LANES) {
        uint32_t* lanes = packed + start / BLOCK * BLOCK * steps + start % BLOCK;
        const int64_t left = std::min(LANES, count - start);
        for (int64_t step = 0; step < steps; step += LANES) {
            const __mmask16 here = inside(step, steps);
            __m512i rows[LANES];
            for (int64_t row = 0; row < LANES; ++row) {
                rows[row] = row < left ? _mm512_maskz_loadu_epi32(here, heads.at(b, h, start + row) + 2 * step)
                                       : _mm512_setzero_si512();
            }
            transpose(rows);
            for (int64_t pair = 0; pair < std::min(LANES, steps - step); ++pair) {
                _mm512_storeu_si512(lanes + (step + pair) * BLOCK, rows[pair]);
            }
        }
    }
}

// Rows as (pair of rows, number): one register holds 16 numbers of both rows, side by side in each lane.
inline void pack_in_pairs(const Heads& heads, int64_t b, int64_t h, int64_t begin, int64_t end, int64_t dim,
                          uint32_t* packed) {
    for (int64_t row = begin; row < end; row += 2, packed += dim) {
        const bool alone = row + 1 == end;
        const uint16_t* first = heads.at(b, h, row);
        const uint16_t* second = alone ? first : heads.at(b, h, row + 1);
        for (int64_t at = 0; at < dim; at += LANES) {
            const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(first + at)));
            __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(second + at)));
            high = alone ? _mm512_setzero_si512() : _mm512_slli_epi32(high, 16);
            _mm512_storeu_si512(packed + at, _mm512_or_si512(low, high));
        }
    }
}

// sums[r][c] += Σ over pairs of rows[r][pair · step …] · table[pair · width + 16 c …], the heart of all products.
template <int R, int C>
inline void products(const uint16_t* const* rows, int64_t step, const uint32_t* table, int64_t width, int64_t count,
                     __m512 (&sums)[R][C]) {
    for (int64_t pair = 0; pair < count; ++pair) {
        __m512bh line[C];
        for (int c = 0; c < C; ++c) line[c] = pairs(_mm512_loadu_si512(table + pair * width + c * LANES));
        for (int r = 0; r < R; ++r) {
            const __m512bh one = pairs(_mm512_set1_epi32((int)pair_at(rows[r] + pair * step)));
            for (int c = 0; c < C; ++c) sums[r][c] = _mm512_dpbf16_ps(sums[r][c], one, line[c]);
        }
    }
}

template <int R, int C>
void score(const uint16_t* const* rows, const uint32_t* block, int64_t steps, float* scores, int64_t width) {
    __m512 sums[R][C] = {};
    products<R, C>(rows, 2, block, BLOCK, steps, sums);
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) _mm512_storeu_ps(scores + r * width + c * LANES, sums[r][c]);
}

// scores[r][n] = rows[r] · the n-th of ``count`` rows that pack_across has laid out.
template <int R>
void score_all(const uint16_t* const* rows, const uint32_t* packed, int64_t count, int64_t dim, float* scores,
               int64_t width) {
    const int64_t steps = dim / 2;
    for (int64_t start = 0; start < count; start += BLOCK, packed += BLOCK * steps, scores += BLOCK) {
        switch ((std::min(BLOCK, count - start) + LANES - 1) / LANES) {
            case 4: score<R, 4>(rows, packed, steps, scores, width); break;
            case 3: score<R, 3>(rows, packed, steps, scores, width); break;
            case 2: score<R, 2>(rows, packed, steps, scores, width); break;
            default: score<R, 1>(rows, packed, steps, scores, width);
        }
    }
}

template <int R, int C>
void mix(const uint16_t* const* weights, const uint32_t* packed, int64_t dim, int64_t steps, const float* shares,
         uint16_t* const* results, int64_t at) {
    __m512 sums[R][C] = {};
    products<R, C>(weights, 2, packed + at, dim, steps, sums);
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) store(results[r] + at + c * LANES, _mm512_mul_ps(sums[r][c], _mm512_set1_ps(shares[r])));
}

// results[r] = shares[r] · Σ weights[r][n] · the n-th of ``count`` rows that pack_in_pairs has laid out, in bf16.
template <int R>
void mix_all(const uint16_t* const* weights, const uint32_t* packed, int64_t count, int64_t dim, const float* shares,
             uint16_t* const* results) {
    const int64_t steps = up(count, 2) / 2;
    for (int64_t at = 0; at < dim; at += BLOCK) {
        switch (std::min(BLOCK, dim - at) / LANES) {
            case 4: mix<R, 4>(weights, packed, dim, steps, shares, results, at); break;
            case 3: mix<R, 3>(weights, packed, dim, steps, shares, results, at); break;
            case 2: mix<R, 2>(weights, packed, dim, steps, shares, results, at); break;
            default: mix<R, 1>(weights, packed, dim, steps, shares, results, at);
        }
    }
}

// Calls some(first, number of rows) for ROWS rows at a time, and for those that are left; the number is a constant.
template <typename Some>
void in_rows(int64_t first, int64_t last, const Some& some) {
    for (; first + ROWS <= last; first += ROWS) some(first, Count<ROWS>());
    switch (last - first) {
        case 5: some(first, Count<5>()); break;
        case 4: some(first, Count<4>()); break;
        case 3: some(first, Count<3>()); break;
        case 2: some(first, Count<2>()); break;
        case 1: some(first, Count<1>()); break;
        default: break;
    }
}

}  // namespace
