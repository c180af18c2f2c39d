// Streams and events that release themselves. Internal to core/device.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

namespace qat::device {

/// Throws qat::Error with CUDA's words and `what` was tried.
void check(cudaError_t status, const char* what);

template <auto kRelease>
struct Release {
  template <class T>
  void operator()(T* resource) const {
    kRelease(resource);
  }
};

/// A place in a stream.
class Event {
 public:
  Event() {
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "an event");
    event_.reset(event);
  }
  void record(cudaStream_t stream) const { check(cudaEventRecord(event_.get(), stream), "an event"); }
  void hold(cudaStream_t stream) const { check(cudaStreamWaitEvent(stream, event_.get()), "an event"); }
  void wait() const { check(cudaEventSynchronize(event_.get()), "an earlier step"); }

 private:
  std::unique_ptr<CUevent_st, Release<cudaEventDestroy>> event_;
};

class Stream {
 public:
  Stream() {
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
    stream_.reset(stream);
  }
  ~Stream() { cudaStreamSynchronize(stream_.get()); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return stream_.get(); }  // NOLINT(google-explicit-constructor): it is one

 private:
  std::unique_ptr<CUstream_st, Release<cudaStreamDestroy>> stream_;
};

}  // namespace qat::device
