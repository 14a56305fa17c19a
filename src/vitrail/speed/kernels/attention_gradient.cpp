// The gradient of attention.cpp; its twin in torch is autograd's through attend() of nn/attention.py.
//
// With P the weights and G the result's gradient: dV = Pᵀ G; the scores' gradient is S = P ∘ (G Vᵀ - rowsum(P ∘ G Vᵀ)),
// and dQ = scale · S K, dK = scale · Sᵀ Q. P is computed again from the scores and their levels (FlashAttention, Dao et
// al. 2022, section 3.1 and algorithm 4), so that no matrix of queries by keys was ever kept. A few queries at a time
// meet all keys, as on the way forward; P and S of a block of queries wait in the second-level cache, two queries side by
// side, until the block is summed into dV and dK.

#include "heads.h"

namespace {

constexpr int64_t WAITING = 128 * 1024;  // Bytes of P, and of S, of a block of queries.

// sums[r] += Σ over pairs of queries: left[pair][first + r] · right[pair], the rows of dK or dV from ``first`` on.
template <int R, int C>
void sum_block(const uint32_t* left, int64_t width, const uint32_t* right, int64_t dim, int64_t steps, float* sums) {
    const uint16_t* rows[R];
    __m512 block[R][C];
    for (int r = 0; r < R; ++r) {
        rows[r] = (const uint16_t*)(left + r);
        for (int c = 0; c < C; ++c) block[r][c] = _mm512_loadu_ps(sums + r * dim + c * LANES);
    }
    products<R, C>(rows, 2 * width, right, dim, steps, block);
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) _mm512_storeu_ps(sums + r * dim + c * LANES, block[r][c]);
}

void sum_up(const uint32_t* left, int64_t width, const uint32_t* right, const Sizes& sizes, int64_t steps, float* sums) {
    const int64_t dim = sizes.dim;
    in_rows(0, sizes.keys, [&](int64_t first, auto count) {
        for (int64_t at = 0; at < dim; at += BLOCK) {
            const uint32_t* table = right + at;
            float* its = sums + first * dim + at;
            switch (std::min(BLOCK, dim - at) / LANES) {
                case 4: sum_block<count, 4>(left + first, width, table, dim, steps, its); break;
                case 3: sum_block<count, 3>(left + first, width, table, dim, steps, its); break;
                case 2: sum_block<count, 2>(left + first, width, table, dim, steps, its); break;
                default: sum_block<count, 1>(left + first, width, table, dim, steps, its);
            }
        }
    });
}

struct Task {
    const Heads &query, &key, &value, &gradient;      // The last: of the result.
    const Heads &for_query, &for_key, &for_value;     // What is wanted.
    const Bias& bias;
    const Sizes& sizes;
    const float* levels;
    float scale;
};

struct Worker {
    const Task& task;
    int64_t width, at_once;  // Of a row of scores; queries of a block.
    Memory<uint32_t> keys_across, values_across, keys_in_pairs;
    Memory<uint32_t> queries, gradients, weights, slopes;  // Of a block, two queries side by side.
    Memory<float> scores, given_by_value;  // Of some queries: Q Kᵀ, and G Vᵀ.
    Memory<uint16_t> rows;  // Of S, some queries.
    Memory<float> for_keys, for_values;

    explicit Worker(const Task& its)
        : task(its),
          // Not a power of two: the lines of a column would all want the same place in the cache.
          width(up(its.sizes.keys, BLOCK) + LANES),
          at_once(std::min(up(its.sizes.queries, ROWS), std::max(ROWS, 2 * WAITING / (4 * width) / ROWS * ROWS))),
          keys_across(width * its.sizes.dim / 2),
          values_across(width * its.sizes.dim / 2),
          keys_in_pairs(up(its.sizes.keys, 2) / 2 * its.sizes.dim),
          queries(at_once / 2 * its.sizes.dim),
          gradients(at_once / 2 * its.sizes.dim),
          weights(at_once / 2 * width),
          slopes(at_once / 2 * width),
          scores(ROWS * width),
          given_by_value(ROWS * width),
          rows(ROWS * width),
          for_keys(its.sizes.keys * its.sizes.dim),
          for_values(its.sizes.keys * its.sizes.dim) {}
    bool ready() const {
        return keys_across && values_across && keys_in_pairs && queries && gradients && weights && slopes && scores &&
               given_by_value && rows && for_keys && for_values;
    }

    // Scores into weights P in place; gives rowsum(P ∘ G Vᵀ).
    float soften(float* row, const float* product, const float* added, float level) {
        const __m512 factor = _mm512_set1_ps(task.scale * LOG2E), below = _mm512_set1_ps(level);
        __m512 total = _mm512_setzero_ps();
        for (int64_t at = 0; at < task.sizes.keys; at += LANES) {
            const __mmask16 here = inside(at, task.sizes.keys);
            __m512 score = _mm512_fmsub_ps(_mm512_loadu_ps(row + at), factor, below);
            if (added) score = _mm512_fmadd_ps(task.bias.read(added, at, here), _mm512_set1_ps(LOG2E), score);
            const __m512 weight = _mm512_maskz_mov_ps(here, exp2_of(score));
            total = _mm512_fmadd_ps(weight, _mm512_loadu_ps(product + at), total);
            _mm512_storeu_ps(row + at, weight);
        }
        return _mm512_reduce_add_ps(total);
    }

    // P and S of two queries, side by side; S also row by row. Of one query where ``one`` says so.
    void keep(int64_t r, const float* totals, bool one, uint32_t* its_weights, uint32_t* its_slopes) {
        const float *p0 = scores + r * width, *g0 = given_by_value + r * width;
        const float *p1 = one ? p0 : p0 + width, *g1 = one ? g0 : g0 + width;
        const __m512 t0 = _mm512_set1_ps(totals[0]), t1 = _mm512_set1_ps(totals[one ? 0 : 1]);
        const __m512 scale = _mm512_set1_ps(task.scale);
        const __mmask16 second = one ? 0 : 0xffff;
        for (int64_t at = 0; at < task.sizes.keys; at += LANES) {
            const __m512 w0 = _mm512_loadu_ps(p0 + at), w1 = _mm512_maskz_loadu_ps(second, p1 + at);
            const __m512 s0 = _mm512_mul_ps(_mm512_mul_ps(w0, scale), _mm512_sub_ps(_mm512_loadu_ps(g0 + at), t0));
            const __m512 s1 = _mm512_mul_ps(_mm512_mul_ps(w1, scale), _mm512_sub_ps(_mm512_loadu_ps(g1 + at), t1));
            _mm512_storeu_si512(its_weights + at, side_by_side(w0, w1));
            const __m512i both = side_by_side(s0, s1);
            _mm512_storeu_si512(its_slopes + at, both);
            _mm256_storeu_si256((__m256i*)(rows + r * width + at), _mm512_cvtepi32_epi16(both));
            if (!one)
                _mm256_storeu_si256((__m256i*)(rows + (r + 1) * width + at),
                                    _mm512_cvtepi32_epi16(_mm512_srli_epi32(both, 16)));
        }
    }

    template <int R>
    void some(int64_t b, int64_t h, int64_t first, int64_t in_block) {
        const Sizes& sizes = task.sizes;
        const uint16_t *queried[R], *given[R], *its[R];
        uint16_t* results[R];
        float totals[R], shares[R];
        for (int r = 0; r < R; ++r) {
            queried[r] = task.query.at(b, h, first + r), given[r] = task.gradient.at(b, h, first + r);
            its[r] = rows + r * width, results[r] = task.for_query.at(b, h, first + r), shares[r] = 1.f;
        }
        score_all<R>(queried, keys_across, sizes.keys, sizes.dim, scores, width);
        score_all<R>(given, values_across, sizes.keys, sizes.dim, given_by_value, width);
        const float* levels = task.levels + (b * sizes.heads + h) * sizes.queries + first;
        for (int r = 0; r < R; ++r) {
            totals[r] = soften(scores + r * width, given_by_value + r * width, task.bias.at(b, h, first + r), levels[r]);
        }
        for (int r = 0; r < R; r += 2) {
            const int64_t pair = (in_block + r) / 2 * width;
            keep(r, totals + r, r + 1 == R, weights + pair, slopes + pair);
        }
        mix_all<R>(its, keys_in_pairs, sizes.keys, sizes.dim, shares, results);
    }

    void head(int64_t b, int64_t h) {
        const Sizes& sizes = task.sizes;
        const int64_t dim = sizes.dim, numbers = sizes.keys * dim;
        pack_across(task.key, b, h, sizes.keys, dim, keys_across);
        pack_across(task.value, b, h, sizes.keys, dim, values_across);
        pack_in_pairs(task.key, b, h, 0, sizes.keys, dim, keys_in_pairs);
        std::fill_n(for_keys.data, numbers, 0.f);
        std::fill_n(for_values.data, numbers, 0.f);
        for (int64_t begin = 0; begin < sizes.queries; begin += at_once) {
            const int64_t end = std::min(begin + at_once, sizes.queries), steps = up(end - begin, 2) / 2;
            pack_in_pairs(task.query, b, h, begin, end, dim, queries);
            pack_in_pairs(task.gradient, b, h, begin, end, dim, gradients);
            in_rows(begin, end, [&](int64_t first, auto count) { some<count>(b, h, first, first - begin); });
            sum_up(weights, width, gradients, sizes, steps, for_values);
            sum_up(slopes, width, queries, sizes, steps, for_keys);
        }
        for (int64_t key = 0; key < sizes.keys; ++key) {
            for (int64_t at = 0; at < dim; at += LANES) {
                store(task.for_key.at(b, h, key) + at, _mm512_loadu_ps(for_keys + key * dim + at));
                store(task.for_value.at(b, h, key) + at, _mm512_loadu_ps(for_values + key * dim + at));
            }
        }
    }
};

}  // namespace

extern "C" {

// Gives 0, or 1 where memory was short. A head belongs to one thread, so that threads change no bit.
int attend_gradient(const Heads* query, const Heads* key, const Heads* value, const Heads* gradient,
                    const Heads* for_query, const Heads* for_key, const Heads* for_value, const Bias* bias,
                    const Sizes* sizes, const float* levels, float scale, int threads) {
    const Task task{*query, *key, *value, *gradient, *for_query, *for_key, *for_value, *bias, *sizes, levels, scale};
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        Worker worker(task);
        failed = !worker.ready();
#pragma omp for schedule(dynamic)
        for (int64_t at = 0; at < sizes->batch * sizes->heads; ++at) {
            if (worker.ready()) worker.head(at / sizes->heads, at % sizes->heads);
        }
    }
    return failed;
}
}
