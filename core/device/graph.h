// A CUDA graph. Internal to core/device.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

namespace qat::device {

/// Work that was put into a stream once, to be put there again in one call.
class Graph {
 public:
  /// Records what `work` puts into the stream; nothing of it runs.
  Graph(cudaStream_t stream, const std::function<void()>& work);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void launch(cudaStream_t stream) const;

 private:
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace qat::device
