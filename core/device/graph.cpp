#include "core/device/graph.h"

#include "core/device/stream.h"

namespace qat::device {

Graph::Graph(cudaStream_t stream, const std::function<void()>& work) {
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "recording a step");
  cudaGraph_t recorded = nullptr;
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(stream, &recorded);
    static_cast<void>(cudaGetLastError());  // of a recording without an end, and none of later calls
    if (recorded != nullptr) cudaGraphDestroy(recorded);
    throw;
  }
  check(cudaStreamEndCapture(stream, &recorded), "recording a step");
  const cudaError_t status = cudaGraphInstantiate(&graph_, recorded, 0);
  cudaGraphDestroy(recorded);
  check(status, "recording a step");
}

Graph::~Graph() { cudaGraphExecDestroy(graph_); }

void Graph::launch(cudaStream_t stream) const { check(cudaGraphLaunch(graph_, stream), "a step"); }

}  // namespace qat::device
