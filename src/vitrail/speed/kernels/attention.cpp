// Attention, softmax(scale · Q Kᵀ + bias) V, scores and sums in float32; its twin in torch is attend() of nn/attention.py.
//
// A few queries at a time meet all keys; their scores stay in the first-level cache and never reach memory. Keys and
// values of a head are laid out once as the processor's product of pairs reads them, and stay in the second-level cache.
// Queries, keys and values are read, and the result is written, where the layers before and behind have them.

#include <cmath>
#include <limits>

#include "heads.h"

namespace {

struct Softened {
    float share;  // One over the sum of the weights.
    float level;  // The logarithm of the sum of the exponentials, to the base 2.
};

// One row of scores into weights in bf16, not yet divided by their sum.
Softened soften(float* scores, int64_t keys, float scale, const Bias& bias, const float* added, uint16_t* weights) {
    const __m512 lowest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    __m512 factor = _mm512_set1_ps(scale * LOG2E), most = lowest;
    // What lies behind the last key is masked, not filled: one wide read of many narrow writes would wait for them.
    if (added == nullptr) {
        for (int64_t at = 0; at < keys; at += LANES) {
            most = _mm512_mask_max_ps(most, inside(at, keys), most, _mm512_loadu_ps(scores + at));
        }
    } else {
        for (int64_t at = 0; at < keys; at += LANES) {
            const __mmask16 here = inside(at, keys);
            const __m512 values = _mm512_mul_ps(_mm512_loadu_ps(scores + at), factor);
            const __m512 both = _mm512_fmadd_ps(bias.read(added, at, here), _mm512_set1_ps(LOG2E), values);
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
        store(weights + at, values);
    }
    const float sum = _mm512_reduce_add_ps(total);
    return {1.f / sum, _mm512_cvtss_f32(peak) + std::log2(sum)};
}

// What one call is given.
struct Task {
    const Heads &query, &key, &value, &result;
    const Bias& bias;
    const Sizes& sizes;
    float scale;
    float* levels;  // One for each query of each head, or nullptr where no gradient is wanted.
};

// The work of one thread on one head after another.
struct Worker {
    const Task& task;
    int64_t width;
    Memory<uint32_t> keys, values;
    Memory<float> scores;
    Memory<uint16_t> weights;

    explicit Worker(const Task& its)
        : task(its),
          width(up(its.sizes.keys, BLOCK)),
          keys(width * its.sizes.dim / 2),
          values(up(its.sizes.keys, 2) / 2 * its.sizes.dim),
          scores(ROWS * width),
          weights(ROWS * width) {}
    bool ready() const { return keys && values && scores && weights; }

    template <int R>
    void some(int64_t b, int64_t h, int64_t first) {
        const Sizes& sizes = task.sizes;
        const uint16_t *rows[R], *softened[R];
        uint16_t* results[R];
        float shares[R];
        for (int r = 0; r < R; ++r) rows[r] = task.query.at(b, h, first + r);
        score_all<R>(rows, keys, sizes.keys, sizes.dim, scores, width);
        for (int r = 0; r < R; ++r) {
            uint16_t* row = weights + r * width;
            const float* added = task.bias.at(b, h, first + r);
            const Softened one = soften(scores + r * width, sizes.keys, task.scale, task.bias, added, row);
            shares[r] = one.share, softened[r] = row, results[r] = task.result.at(b, h, first + r);
            if (task.levels) task.levels[(b * sizes.heads + h) * sizes.queries + first + r] = one.level;
        }
        mix_all<R>(softened, values, sizes.keys, sizes.dim, shares, results);
    }

    // The queries of a head from ``first`` to before ``last``.
    void part(int64_t b, int64_t h, int64_t first, int64_t last) {
        pack_across(task.key, b, h, task.sizes.keys, task.sizes.dim, keys);
        pack_in_pairs(task.value, b, h, 0, task.sizes.keys, task.sizes.dim, values);
        in_rows(first, last, [&](int64_t row, auto count) { some<count>(b, h, row); });
    }
};

}  // namespace

extern "C" {

// Whether this processor has what the rest is built of.
int supported() { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bf16"); }

// Gives 0, or 1 where memory was short. The numbers of a head are a multiple of 16.
int attend(const Heads* query, const Heads* key, const Heads* value, const Heads* result, const Bias* bias,
           const Sizes* sizes, float scale, float* levels, int threads) {
    const Task task{*query, *key, *value, *result, *bias, *sizes, scale, levels};
    const int64_t heads = sizes->batch * sizes->heads;
    // Where there are fewer heads than threads a head is shared; each of its parts lays the keys out again.
    const int64_t shares = std::max<int64_t>(1, std::min((2 * threads + heads - 1) / heads, sizes->queries / BLOCK));
    const int64_t step = up((sizes->queries + shares - 1) / shares, ROWS);
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        Worker worker(task);
        failed = !worker.ready();
#pragma omp for schedule(dynamic)
        for (int64_t at = 0; at < heads * shares; ++at) {
            const int64_t head = at / shares, first = at % shares * step;
            if (worker.ready())
                worker.part(head / sizes->heads, head % sizes->heads, first, std::min(first + step, sizes->queries));
        }
    }
    return failed;
}
}
