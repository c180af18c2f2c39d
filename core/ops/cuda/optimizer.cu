#include "core/ops/cuda/eights.cuh"
#include "core/ops/cuda/optimizer.h"

namespace qat::ops::cuda {
namespace {

constexpr int kWarp = 32;

/// Calls body(part) for the thread's parts of a piece of n elements.
template <class Body>
__device__ void for_piece(int64_t n, bool vectors, const Body& body) {
  constexpr int kParts = kUpdatePiece / (kThreads * kEight);
#pragma unroll
  for (int k = 0; k < kParts; ++k) {
    const int64_t at = (k * kThreads + static_cast<int>(threadIdx.x)) * kEight;
    if (at < n) body(Part{at, n - at < kEight ? static_cast<int>(n - at) : kEight, vectors});
  }
}

/// The block's piece of a parameter as if it were one.
__device__ ParameterUpdate piece_of(const UpdateList& list) {
  const UpdatePiece piece = list.pieces[blockIdx.x];
  ParameterUpdate u = list.updates[piece.parameter];
  u.parameter += piece.begin;
  u.gradient += piece.begin;
  if (u.first != nullptr) u.first += piece.begin;
  if (u.second != nullptr) u.second += piece.begin;
  u.n = u.n - piece.begin < kUpdatePiece ? u.n - piece.begin : kUpdatePiece;
  return u;
}

__device__ bool is_aligned(const float* a) { return reinterpret_cast<uintptr_t>(a) % 16 == 0; }

/// at::clamp: NaN stays.
__device__ float clamped(float t, float lo, float hi) { return t < lo ? lo : t > hi ? hi : t; }
__device__ float limited(float g, float limit) { return limit > 0 ? clamped(g, -limit, limit) : g; }

/// The sum over the block's threads, in one order. Once in a kernel.
__device__ double block_sum(double value) {
  __shared__ double warps[kThreads / kWarp];
#pragma unroll
  for (int other = kWarp / 2; other > 0; other /= 2) value += __shfl_xor_sync(0xffffffff, value, other);
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = value;
  __syncthreads();
  double sum = 0.0;
  for (const double warp : warps) sum += warp;
  return sum;
}

/// squares [pieces]
__global__ void __launch_bounds__(kThreads)
    sum_squares(UpdateList list, float clip_value, double* squares, int32_t* failed) {
  await_previous();
  const ParameterUpdate u = piece_of(list);
  double sum = 0.0;
  bool finite = true;
  for_piece(u.n, is_aligned(u.gradient), [&](const Part& part) {
    const Eight<float> g = load(u.gradient, part);
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      finite = finite && fabsf(g.at[k]) < INFINITY;
      const double value = limited(g.at[k], clip_value);
      sum += value * value;
    }
  });
  if (!finite) *failed = 1;
  const double total = block_sum(sum);
  if (threadIdx.x == 0) squares[blockIdx.x] = total;
}

__global__ void __launch_bounds__(kThreads) finish_norm(const double* squares, int64_t pieces, double* norm) {
  await_previous();
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < pieces; i += kThreads) sum += squares[i];
  const double total = block_sum(sum);
  if (threadIdx.x == 0) *norm = sqrt(total);
}

/// GradientClipping with the norm's factor.
struct Clip {
  __device__ explicit Clip(const GradientClipping& clipping) : limit(clipping.clip_value), factor(1.0f) {
    if (clipping.max_norm == 0) return;
    const double coefficient = clipping.max_norm / (*clipping.norm + 1e-6);
    if (coefficient < 1) factor = static_cast<float>(coefficient);
  }
  __device__ Eight<float> load(const float* gradient, const Part& part) const {
    Eight<float> g = cuda::load(gradient, part);
#pragma unroll
    for (int k = 0; k < kEight; ++k) g.at[k] = limited(g.at[k], limit) * factor;
    return g;
  }
  float limit, factor;
};

/// A Method makes of a parameter's constants and its rate a Step that takes a part's gradients into the state and p.
template <class Method>
__global__ void __launch_bounds__(kThreads)
    update_piece(UpdateList list, Method method, GradientClipping clipping, const float* rates, const int32_t* failed) {
  await_previous();
  if (*failed != 0) return;
  const ParameterUpdate u = piece_of(list);
  const Clip clip(clipping);
  const typename Method::Step step(method, u, rates[u.rate]);
  const bool vectors = is_aligned(u.parameter) && is_aligned(u.gradient) && is_aligned(u.first) && is_aligned(u.second);
  for_piece(u.n, vectors, [&](const Part& part) {
    Eight<float> p = load(u.parameter, part), g = clip.load(u.gradient, part);
    step(u, part, g, p);
    if (u.lowest < u.highest) {
#pragma unroll
      for (int k = 0; k < kEight; ++k) p.at[k] = clamped(p.at[k], u.lowest, u.highest);
    }
    store(u.parameter, part, p);
  });
}

__device__ void decay(float weight_decay, const Eight<float>& p, Eight<float>& g) {
  if (weight_decay == 0) return;
#pragma unroll
  for (int k = 0; k < kEight; ++k) g.at[k] = fmaf(p.at[k], weight_decay, g.at[k]);
}

struct Sgd {
  struct Step {
    __device__ Step(const Sgd& method, const ParameterUpdate& u, float rate)
        : o(method.options), rate(rate), has_momentum(o.momentum != 0 && u.first != nullptr) {}
    __device__ void operator()(const ParameterUpdate& u, const Part& part, Eight<float>& g, Eight<float>& p) const {
      decay(u.weight_decay, p, g);
      if (has_momentum) {
        Eight<float> v = load(u.first, part);
#pragma unroll
        for (int k = 0; k < kEight; ++k) {
          v.at[k] = o.momentum * v.at[k] + g.at[k];
          g.at[k] = o.nesterov ? fmaf(v.at[k], o.momentum, g.at[k]) : v.at[k];
        }
        store(u.first, part, v);
      }
#pragma unroll
      for (int k = 0; k < kEight; ++k) p.at[k] = fmaf(g.at[k], -rate, p.at[k]);
    }
    SgdOptions o;
    float rate;
    bool has_momentum;
  };
  SgdOptions options;
};

struct Adam {
  struct Step {
    __device__ Step(const Adam& method, const ParameterUpdate& u, float rate)
        : m(method),
          spread(static_cast<float>(m.corrections[2 * u.rate + 1])),
          length(static_cast<float>(-static_cast<double>(rate) / m.corrections[2 * u.rate])),
          kept(static_cast<float>(1.0 - static_cast<double>(rate) * u.weight_decay)) {}

    /// LibTorch's lerp: exact at both ends.
    __device__ float average(float from, float to) const {
      const float way = to - from;
      return m.weight1 < 0.5f ? from + m.weight1 * way : to - way * (1.0f - m.weight1);
    }

    __device__ void operator()(const ParameterUpdate& u, const Part& part, Eight<float>& g, Eight<float>& p) const {
      if (m.decoupled) {
#pragma unroll
        for (int k = 0; k < kEight; ++k) p.at[k] *= kept;
      } else {
        decay(u.weight_decay, p, g);
      }
      Eight<float> mean = load(u.first, part), square = load(u.second, part);
#pragma unroll
      for (int k = 0; k < kEight; ++k) {
        mean.at[k] = average(mean.at[k], g.at[k]);
        square.at[k] = square.at[k] * m.beta2 + m.weight2 * g.at[k] * g.at[k];
        p.at[k] += length * mean.at[k] / (sqrtf(square.at[k]) / spread + m.eps);
      }
      store(u.first, part, mean);
      store(u.second, part, square);
    }

    const Adam& m;
    float spread, length, kept;
  };
  float beta2, weight1, weight2, eps;
  bool decoupled;
  const double* corrections;
};

void require_list(const char* kernel, const UpdateList& list) {
  require(list.piece_count >= 0 && list.piece_count <= INT32_MAX, kernel, "the number of pieces must be in [0, 2^31)");
}

template <class Method>
void update(const char* kernel, const UpdateList& list, const Method& method, const GradientClipping& clipping,
            const float* rates, const int32_t* failed, cudaStream_t stream) {
  require_list(kernel, list);
  require(clipping.clip_value >= 0 && clipping.max_norm >= 0, kernel, "gradients cannot be clipped below 0");
  require(clipping.max_norm == 0 || clipping.norm != nullptr, kernel, "clipping the norm needs the norm");
  if (list.piece_count == 0) return;
  launch_kernel(kernel, update_piece<Method>, static_cast<unsigned>(list.piece_count), kThreads, 0, stream, list,
                method, clipping, rates, failed);
}

}  // namespace

void measure_gradients(const UpdateList& list, float clip_value, double* norm, int32_t* failed, void* scratch,
                       cudaStream_t stream) {
  constexpr const char* kName = "measure_gradients";
  require_list(kName, list);
  require(clip_value >= 0, kName, "gradients cannot be clipped below 0");
  auto* squares = static_cast<double*>(scratch);
  if (list.piece_count > 0) {
    launch_kernel(kName, sum_squares, static_cast<unsigned>(list.piece_count), kThreads, 0, stream, list, clip_value,
                  squares, failed);
  }
  launch_kernel(kName, finish_norm, 1, kThreads, 0, stream, squares, list.piece_count, norm);
}

void sgd(const UpdateList& list, const SgdOptions& options, const GradientClipping& clipping, const float* rates,
         const int32_t* failed, cudaStream_t stream) {
  update("sgd", list, Sgd{options}, clipping, rates, failed, stream);
}

void adam(const UpdateList& list, const AdamOptions& options, const GradientClipping& clipping, const float* rates,
          const double* corrections, const int32_t* failed, cudaStream_t stream) {
  require(options.beta1 >= 0 && options.beta1 < 1 && options.beta2 >= 0 && options.beta2 < 1, "adam",
          "betas must be in [0, 1)");
  const Adam method{static_cast<float>(options.beta2),
                    static_cast<float>(1 - options.beta1),
                    static_cast<float>(1 - options.beta2),
                    static_cast<float>(options.eps),
                    options.decoupled,
                    corrections};
  update("adam", list, method, clipping, rates, failed, stream);
}

}  // namespace qat::ops::cuda
