// `qat bench`: what a quantized training step costs beside the same step of the unmodified float network, and its
// kernels one by one. Free of LibTorch headers.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace qat::trainers {

struct StepBenchRequest {
  std::string config;
  std::vector<std::string> overrides;
  int64_t threads = 0;  // 0: the config's
  int64_t steps = 20;   // timed steps of each side, after three that are not timed
  std::string isa;      // "": the machine's best; "avx2" or "avx512": no better one (our kernels only; the libraries'
                        // are chosen by environment variables before the program starts)
  bool frozen = false;  // the phase after the freeze, not the live one
};

/// Float and quantized steps of one network in turn, in one process; both have the batch normalizations, loss and
/// optimizer of the config's finetune stage, and the same batches.
///
/// The float side is the model's torch::nn module under stock LibTorch with torch::optim where the optimizer is sgd, in
/// contiguous and in channels-last memory: the faster of both counts. The quantized side is a training step, with
/// observers, scale gradients and projections.
///
/// {float_ms, quantized_ms, ratio: of minima; float_median_ms, quantized_median_ms, median_ratio;
///  float_saved_bytes, quantized_saved_bytes, saved_ratio; parameter_bytes, steps, threads, ...;
///  float: {layout, forward_ms, backward_ms, optimizer_ms, contiguous_ms, channels_last_ms}: minima;
///  quantized: {forward_ms, backward_ms, optimizer_ms, passes: {name: ms of a step, minima}};
///  data_ms: the wait for a batch of the loader; data_share: of data and quantized step}.
///
/// With device: cuda both sides run on the GPU, each step with the copy of its batch: the float one copies from
/// page-locked memory in its stream, the quantized one to page-locked memory too, beside the step before. Rates of the
/// quantized one are 0: an untrained network may diverge in hundreds of steps. The float side is there where
/// libtorch_cuda.so can be loaded (no_float says why not, and float_..., ratio and saved_ratio are absent then), under
/// autocast where the stage has it. In place of the parts of a step: activation_bytes (maps and scratch memory of the
/// quantized step), state_bytes (all else of it), float: {layout, contiguous_ms, channels_last_ms, saved_bytes,
/// peak_bytes}. Runs of many steps are timed, so data_ms is no part of them. Saved bytes are those of LibTorch's CUDA
/// allocator on the float side, on the other those of DeviceTraining::device().saved_bytes().
///
/// Saved bytes: what LibTorch's CPU allocator gave out between the batch's own copy and the end of forward and loss and
/// did not get back once all names of the step's values but the loss are gone: the storages that autograd keeps,
/// whichever node keeps them. Parameters existed before; weight codes that a node kept would count.
nlohmann::ordered_json step_bench(const StepBenchRequest& request);

/// {peak_rss_growth_bytes}: how far resident memory grows above what the built network takes, over three steps of one
/// side ("float", "quantized"). For a process that did nothing else.
nlohmann::ordered_json step_memory(const StepBenchRequest& request, const std::string& side);

/// `qat bench ops`: {copy_gb_s, peak_float_gmac_s, peak_int16_gmac_s (one thread, from registers),
///  passes: [{name, ns_per_element, bytes_per_element, gb_s, of_copy}],
///  convolutions: [{shape, float_gmac_s (LibTorch's), a8w8_gmac_s, a8w8_kernel, a4w4_gmac_s, a4w4_kernel,
///                  and weight_gradient_gmac_s, input_gradient_gmac_s beside LibTorch's float_...}]}: shortest runs.
nlohmann::ordered_json ops_bench(int64_t threads, const std::string& isa);

}  // namespace qat::trainers
