// What torch's operators do not do well in bf16 on processors with AVX512-BF16. native.py builds and calls this.
//
// Attention, softmax(scale · Q Kᵀ + bias) V, scores and sums in float32; its twin in torch is attend() of nn/attention.py.
// A few queries at a time meet all keys; their scores stay in the first-level cache and never reach memory. Keys and
// values of a head are laid out once as the processor's product of pairs reads them, and stay in the second-level cache.
// Queries, keys and values are read, and the result is written, where the layers before and behind have them.
//
// LayerNorm of float32 or bf16 into bf16, as the product behind it reads it; its twin is torch's layer_norm and a cast.
//
// The sum of float32 and bf16 in one pass, where torch casts first and then adds.

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>

namespace {

constexpr int64_t LANES = 16;   // float32 numbers of a register
constexpr int64_t BLOCK = 64;   // keys, or numbers of a head, that are worked on together: four registers
constexpr int64_t ROWS = 6;     // queries at a time: with BLOCK they fill 24 of the 32 registers with sums
constexpr float LOG2E = 1.44269504088896340736f;
constexpr float C1 = 0.69328291f, C2 = 0.24220985f, C3 = 0.05500796f;  // 2^x on -½ … ½, least largest relative error

// One of queries, keys, values or results: bf16, the numbers of a head side by side. Strides count numbers.
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
    const float* at(int64_t b, int64_t h, int64_t r) const { return data + b % count * batch + h * head + r * row; }
};

struct Sizes {
    int64_t batch, heads, queries, keys, dim;
};

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

// Keys as (block of 64 keys, pair of the head's numbers, key): what 16 lanes read for one pair lies side by side.
void pack_keys(const Heads& keys, int64_t b, int64_t h, const Sizes& sizes, uint32_t* packed) {
    const int64_t steps = sizes.dim / 2;
    for (int64_t start = 0; start < sizes.keys; start += LANES) {
        uint32_t* lanes = packed + start / BLOCK * BLOCK * steps + start % BLOCK;
        const int64_t count = std::min(LANES, sizes.keys - start);
        for (int64_t step = 0; step < steps; step += LANES) {
            const __mmask16 here = inside(step, steps);
            __m512i rows[LANES];
            for (int64_t key = 0; key < LANES; ++key) {
                rows[key] = key < count ? _mm512_maskz_loadu_epi32(here, keys.at(b, h, start + key) + 2 * step)
                                        : _mm512_setzero_si512();
            }
            transpose(rows);
            for (int64_t pair = 0; pair < std::min(LANES, steps - step); ++pair) {
                _mm512_storeu_si512(lanes + (step + pair) * BLOCK, rows[pair]);
            }
        }
    }
}

// Values as (pair of keys, number): one register holds 16 numbers of both keys, side by side in each lane.
void pack_values(const Heads& values, int64_t b, int64_t h, const Sizes& sizes, uint32_t* packed) {
    for (int64_t key = 0; key < sizes.keys; key += 2) {
        const bool alone = key + 1 == sizes.keys;
        const uint16_t* first = values.at(b, h, key);
        const uint16_t* second = alone ? first : values.at(b, h, key + 1);
        for (int64_t at = 0; at < sizes.dim; at += LANES) {
            const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(first + at)));
            __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(second + at)));
            high = alone ? _mm512_setzero_si512() : _mm512_slli_epi32(high, 16);
            _mm512_storeu_si512(packed + key / 2 * sizes.dim + at, _mm512_or_si512(low, high));
        }
    }
}

// sums[r][c] = Σ over pairs of rows[r][pair] · table[pair][16 c …], the heart of both products.
template <int R, int C>
inline void products(const uint16_t* const* rows, const uint32_t* table, int64_t width, int64_t steps,
                     __m512 (&sums)[R][C]) {
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) sums[r][c] = _mm512_setzero_ps();
    for (int64_t step = 0; step < steps; ++step) {
        __m512bh line[C];
        for (int c = 0; c < C; ++c) line[c] = pairs(_mm512_loadu_si512(table + step * width + c * LANES));
        for (int r = 0; r < R; ++r) {
            const __m512bh one = pairs(_mm512_set1_epi32((int)pair_at(rows[r] + 2 * step)));
            for (int c = 0; c < C; ++c) sums[r][c] = _mm512_dpbf16_ps(sums[r][c], one, line[c]);
        }
    }
}

template <int R, int C>
void score(const uint16_t* const* rows, const uint32_t* block, int64_t steps, float* scores, int64_t width) {
    __m512 sums[R][C];
    products<R, C>(rows, block, BLOCK, steps, sums);
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) _mm512_storeu_ps(scores + r * width + c * LANES, sums[r][c]);
}

template <int R, int C>
void mix(const uint16_t* const* weights, const uint32_t* values, int64_t dim, int64_t steps, const float* shares,
         uint16_t* const* results) {
    __m512 sums[R][C];
    products<R, C>(weights, values, dim, steps, sums);
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) {
            const __m512 mean = _mm512_mul_ps(sums[r][c], _mm512_set1_ps(shares[r]));
            _mm256_storeu_si256((__m256i*)(results[r] + c * LANES), (__m256i)_mm512_cvtneps_pbh(mean));
        }
}

// One row of scores into weights in bf16, not yet divided by their sum; returns one over the sum.
float soften(float* scores, int64_t keys, float scale, const float* bias, int64_t bias_step, uint16_t* weights) {
    const __m512 lowest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    __m512 factor = _mm512_set1_ps(scale * LOG2E), most = lowest;
    // What lies behind the last key is masked, not filled: one wide read of many narrow writes would wait for them.
    if (bias == nullptr) {
        for (int64_t at = 0; at < keys; at += LANES) {
            most = _mm512_mask_max_ps(most, inside(at, keys), most, _mm512_loadu_ps(scores + at));
        }
    } else {
        for (int64_t at = 0; at < keys; at += LANES) {
            const __mmask16 here = inside(at, keys);
            const __m512 added = bias_step ? _mm512_maskz_loadu_ps(here, bias + at) : _mm512_set1_ps(*bias);
            const __m512 values = _mm512_mul_ps(_mm512_loadu_ps(scores + at), factor);
            const __m512 both = _mm512_fmadd_ps(added, _mm512_set1_ps(LOG2E), values);
            _mm512_storeu_ps(scores + at, both);
            most = _mm512_mask_max_ps(most, here, most, both);
        }
        factor = _mm512_set1_ps(1.f);
    }
    const __m512 peak = _mm512_mul_ps(_mm512_set1_ps(_mm512_reduce_max_ps(most)), factor);
    __m512 total = _mm512_setzero_ps();
    for (int64_t at = 0; at < keys; at += LANES) {
        const __m512 all = exp2_of(_mm512_fmsub_ps(_mm512_loadu_ps(scores + at), factor, peak));
        const __m512 values = _mm512_maskz_mov_ps(inside(at, keys), all);
        total = _mm512_add_ps(total, values);
        _mm256_storeu_si256((__m256i*)(weights + at), (__m256i)_mm512_cvtneps_pbh(values));
    }
    return 1.f / _mm512_reduce_add_ps(total);
}

// The work of one thread on one head: its own memory, and the queries from ``first`` to before ``last``.
struct Worker {
    const Sizes& sizes;
    int64_t width;
    uint32_t* keys;
    uint32_t* values;
    float* scores;
    uint16_t* weights;

    explicit Worker(const Sizes& its) : sizes(its), width(up(its.keys, BLOCK)) {
        keys = take<uint32_t>(width * sizes.dim / 2);
        values = take<uint32_t>(up(sizes.keys, 2) / 2 * sizes.dim);
        scores = take<float>(ROWS * width);
        weights = take<uint16_t>(ROWS * width);
    }
    ~Worker() {
        for (void* memory : {(void*)keys, (void*)values, (void*)scores, (void*)weights}) std::free(memory);
    }
    bool ready() const { return keys && values && scores && weights; }

    template <typename T>
    static T* take(int64_t count) {
        return (T*)std::aligned_alloc(64, (size_t)up(count * (int64_t)sizeof(T), 64));
    }

    template <int R>
    void some(const Heads& query, const Heads& result, const Bias& bias, float scale, int64_t b, int64_t h,
              int64_t first) {
        const uint16_t *rows[R], *softened[R];
        float shares[R];
        for (int r = 0; r < R; ++r) rows[r] = query.at(b, h, first + r);
        for (int64_t start = 0; start < sizes.keys; start += BLOCK) {
            const uint32_t* block = keys + start * (sizes.dim / 2);
            const int64_t steps = sizes.dim / 2;
            switch ((std::min(BLOCK, sizes.keys - start) + LANES - 1) / LANES) {
                case 4: score<R, 4>(rows, block, steps, scores + start, width); break;
                case 3: score<R, 3>(rows, block, steps, scores + start, width); break;
                case 2: score<R, 2>(rows, block, steps, scores + start, width); break;
                default: score<R, 1>(rows, block, steps, scores + start, width);
            }
        }
        for (int r = 0; r < R; ++r) {
            const float* added = bias.data == nullptr ? nullptr : bias.at(b, h, first + r);
            shares[r] = soften(scores + r * width, sizes.keys, scale, added, bias.key, weights + r * width);
            softened[r] = weights + r * width;
        }
        const int64_t steps = up(sizes.keys, 2) / 2;
        for (int64_t at = 0; at < sizes.dim; at += BLOCK) {
            uint16_t* results[R];
            for (int r = 0; r < R; ++r) results[r] = result.at(b, h, first + r) + at;
            switch (std::min(BLOCK, sizes.dim - at) / LANES) {
                case 4: mix<R, 4>(softened, values + at, sizes.dim, steps, shares, results); break;
                case 3: mix<R, 3>(softened, values + at, sizes.dim, steps, shares, results); break;
                case 2: mix<R, 2>(softened, values + at, sizes.dim, steps, shares, results); break;
                default: mix<R, 1>(softened, values + at, sizes.dim, steps, shares, results);
            }
        }
    }

    void part(const Heads& query, const Heads& key, const Heads& value, const Heads& result, const Bias& bias,
              float scale, int64_t b, int64_t h, int64_t first, int64_t last) {
        pack_keys(key, b, h, sizes, keys);
        pack_values(value, b, h, sizes, values);
        for (; first + ROWS <= last; first += ROWS) some<ROWS>(query, result, bias, scale, b, h, first);
        switch (last - first) {
            case 5: some<5>(query, result, bias, scale, b, h, first); break;
            case 4: some<4>(query, result, bias, scale, b, h, first); break;
            case 3: some<3>(query, result, bias, scale, b, h, first); break;
            case 2: some<2>(query, result, bias, scale, b, h, first); break;
            case 1: some<1>(query, result, bias, scale, b, h, first); break;
            default: break;
        }
    }
};

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

// Whether this processor has what the rest is built of.
int supported() { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bf16"); }

// Gives 0, or 1 where memory was short. The numbers of a head are a multiple of 16.
int attend(const Heads* query, const Heads* key, const Heads* value, const Heads* result, const Bias* bias,
           const Sizes* sizes, float scale, int threads) {
    const int64_t heads = sizes->batch * sizes->heads;
    // Where there are fewer heads than threads a head is shared; each of its parts lays the keys out again.
    const int64_t shares = std::max<int64_t>(1, std::min((2 * threads + heads - 1) / heads, sizes->queries / BLOCK));
    const int64_t step = up((sizes->queries + shares - 1) / shares, ROWS);
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        Worker worker(*sizes);
        failed = !worker.ready();
#pragma omp for schedule(dynamic)
        for (int64_t at = 0; at < heads * shares; ++at) {
            const int64_t head = at / shares, first = at % shares * step;
            if (worker.ready())
                worker.part(*query, *key, *value, *result, *bias, scale, head / sizes->heads, head % sizes->heads,
                            first, std::min(first + step, sizes->queries));
        }
    }
    return failed;
}

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
