// The emulation's streams, events and graphs. A stream does its work as late as it may: when somebody waits for it, or
// for an event behind it, so that results show where a wait is missing. The default stream does it at once. While a
// stream is captured its work is recorded; whatever would break a capture is refused.
#include <cstdlib>
#include <deque>
#include <memory>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "tests/ops/cuda/emulated/emulation.h"

using Work = std::vector<std::function<void()>>;

/// Shared by a stream and the events in it, which may outlive it.
struct Queue {
  /// Until `count` pieces of work have been done since the beginning.
  void finish(size_t count) {
    while (done < count) {
      const auto work = std::move(waiting.front());
      waiting.pop_front();
      ++done;
      work();
    }
  }
  void finish() { finish(done + waiting.size()); }
  std::deque<std::function<void()>> waiting;
  size_t done = 0;
};

struct CUgraph_st {
  Work work;
};
struct CUgraphExec_st {
  std::shared_ptr<const Work> work;
};
struct CUstream_st {
  std::shared_ptr<Queue> queue = std::make_shared<Queue>();
  cudaGraph_t captured = nullptr;
  std::shared_ptr<Queue> beside;  // of a stream that the captured one has forked: what it has not joined yet
};
struct CUevent_st {
  std::shared_ptr<Queue> queue;  // none: it was never recorded
  size_t count = 0;
  cudaStream_t captured = nullptr;  // the stream, if it was recorded while that was captured
};

namespace qat::ops::cuda::emulation {
namespace {

/// The stream that is captured, if one is.
cudaStream_t capturing_stream = nullptr;

}  // namespace

bool capturing() { return capturing_stream != nullptr; }

void submit(cudaStream_t stream, std::function<void()> work) {
  if (!capturing()) {
    if (stream == nullptr) return work();
    stream->queue->waiting.push_back(std::move(work));
    return;
  }
  if (stream == capturing_stream) {
    stream->captured->work.push_back(std::move(work));
  } else if (stream != nullptr && stream->beside) {
    stream->beside->waiting.push_back(std::move(work));
  } else {
    throw std::logic_error("work outside of the stream that is captured");
  }
}

}  // namespace qat::ops::cuda::emulation

namespace {

cudaError_t unless_capturing() {
  return qat::ops::cuda::emulation::capturing() ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

std::set<cudaStream_t> streams;

/// A fork, or the join of what was forked: as late as it may, it becomes a part of the captured stream's work.
cudaError_t wait_in_capture(cudaStream_t stream, cudaEvent_t event) {
  const cudaStream_t captured = qat::ops::cuda::emulation::capturing_stream;
  if (event->captured == nullptr) return cudaErrorStreamCaptureIsolation;
  if (event->captured == captured && stream != captured) {
    if (!stream->beside) stream->beside = std::make_shared<Queue>();
  } else if (stream == captured) {
    Queue& queue = *event->queue;
    for (; queue.done < event->count; ++queue.done) {
      captured->captured->work.push_back(std::move(queue.waiting.front()));
      queue.waiting.pop_front();
    }
  } else {
    return cudaErrorStreamCaptureIsolation;
  }
  return cudaSuccess;
}

cudaError_t finish(const std::shared_ptr<Queue>& queue, size_t count) {
  if (const cudaError_t status = unless_capturing(); status != cudaSuccess) return status;
  if (queue) queue->finish(count);
  return cudaSuccess;
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
  *stream = *streams.insert(new CUstream_st).first;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return cudaStreamCreate(stream); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  stream->queue->finish();
  streams.erase(stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream == nullptr) return unless_capturing();
  return finish(stream->queue, stream->queue->done + stream->queue->waiting.size());
}
cudaError_t cudaDeviceSynchronize() {
  if (const cudaError_t status = unless_capturing(); status != cudaSuccess) return status;
  for (const cudaStream_t stream : streams) stream->queue->finish();
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (qat::ops::cuda::emulation::capturing()) return wait_in_capture(stream, event);
  if (event->queue == nullptr) return cudaSuccess;
  qat::ops::cuda::emulation::submit(stream, [queue = event->queue, count = event->count] { queue->finish(count); });
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const bool beside = qat::ops::cuda::emulation::capturing() && stream->beside;
  event->queue = beside ? stream->beside : stream->queue;
  event->count = event->queue->done + event->queue->waiting.size();
  event->captured = qat::ops::cuda::emulation::capturing() ? stream : nullptr;
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) { return finish(event->queue, event->count); }

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream == nullptr) return cudaErrorStreamCaptureUnsupported;
  stream->captured = new CUgraph_st;
  qat::ops::cuda::emulation::capturing_stream = stream;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = std::exchange(stream->captured, nullptr);
  qat::ops::cuda::emulation::capturing_stream = nullptr;
  bool joined = true;
  for (const cudaStream_t other : streams) {
    joined = joined && (!other->beside || other->beside->waiting.empty());
    other->beside = nullptr;
  }
  return joined ? cudaSuccess : cudaErrorStreamCaptureUnjoined;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* count) {
  *count = graph->work.size();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new CUgraphExec_st{std::make_shared<const Work>(graph->work)};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  qat::ops::cuda::emulation::submit(stream, [work = executable->work] {
    for (const auto& piece : *work) piece();
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
