// The emulation's streams, events and graphs: work is done when it is put into a stream, or recorded while that stream
// is captured; whatever would break a capture is refused.
#include <cstdlib>
#include <stdexcept>
#include <utility>
#include <vector>

#include "tests/ops/cuda/emulated/emulation.h"

struct CUgraph_st {
  std::vector<std::function<void()>> work;
};
struct CUgraphExec_st {
  std::vector<std::function<void()>> work;
};
struct CUstream_st {
  cudaGraph_t captured = nullptr;
};
struct CUevent_st {};

namespace qat::ops::cuda::emulation {
namespace {

/// The stream that is captured, if one is.
cudaStream_t capturing_stream = nullptr;

}  // namespace

bool capturing() { return capturing_stream != nullptr; }

void submit(cudaStream_t stream, std::function<void()> work) {
  if (!capturing()) return work();
  if (stream != capturing_stream) throw std::logic_error("work outside of the stream that is captured");
  stream->captured->work.push_back(std::move(work));
}

}  // namespace qat::ops::cuda::emulation

namespace {

cudaError_t unless_capturing() {
  return qat::ops::cuda::emulation::capturing() ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

}  // namespace

extern "C" {

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  qat::ops::cuda::emulation::submit(stream, [=] { std::memset(memory, value, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  qat::ops::cuda::emulation::submit(stream, [=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  if (const cudaError_t status = unless_capturing(); status != cudaSuccess) return status;
  *memory = std::malloc(bytes);
  return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFreeHost(void* memory) {
  std::free(memory);
  return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  *stream = new CUstream_st;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return cudaStreamCreate(stream); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return unless_capturing(); }
cudaError_t cudaDeviceSynchronize() { return unless_capturing(); }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return unless_capturing(); }

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream == nullptr) return cudaErrorStreamCaptureUnsupported;
  stream->captured = new CUgraph_st;
  qat::ops::cuda::emulation::capturing_stream = stream;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = std::exchange(stream->captured, nullptr);
  qat::ops::cuda::emulation::capturing_stream = nullptr;
  return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* count) {
  *count = graph->work.size();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new CUgraphExec_st{graph->work};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  qat::ops::cuda::emulation::submit(stream, [executable] {
    for (const auto& work : executable->work) work();
  });
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}

}  // extern "C"
