// ONNX Runtime as a judge. Its library is loaded while the program runs, so nothing of it is needed to build: the C API
// is a table of functions to which each version only appends, and is called here by position (those of version 1.11).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/judges/judge.h"

namespace qat::judges {

struct OrtFunctions;
struct OrtSessionHandle;

/// The loaded library. It stays loaded until the program ends.
class OnnxRuntime {
 public:
  /// The library's file: $QAT_ONNXRUNTIME (the file, or a folder that holds libonnxruntime.so*); without that variable
  /// the folder .deps/onnxruntime (where tools/quickstart and tools/test put it) beside the running program or in the
  /// nearest folder above it that has one. Empty when there is none. Throws FileError if the variable leads nowhere.
  static std::optional<std::string> find();

  /// Throws FileError if the library cannot be loaded or is too old.
  explicit OnnxRuntime(const std::string& library);

  /// "1.31.1".
  const std::string& version() const { return version_; }

 private:
  friend class OnnxSession;
  std::shared_ptr<const OrtFunctions> functions_;
  std::string version_;
};

/// What a session may do with a network.
enum class SessionKind {
  kExact,    // all optimisations and exact integer kernels: no saturation of pair sums (uint8), int8 fused
  kDefault,  // as a program gets it that sets nothing
};

/// Whether sums of products saturate to int16 in default sessions on this machine: those of CPUs with AVX2 and no VNNI
/// do. Found out by a sum that would.
bool default_session_saturates(const OnnxRuntime& runtime);

/// The session whose sums are the model's.
inline SessionKind session_of(const integer::IntegerModel& model) {
  return model.overflow == integer::Overflow::kSaturate16 ? SessionKind::kDefault : SessionKind::kExact;
}

/// Why ONNX Runtime cannot compute the model's sums on this machine; "" where it can.
std::string obstacle(const OnnxRuntime& runtime, const integer::IntegerModel& model);

/// A model in one session.
class OnnxSession {
 public:
  /// `bytes` is the model's file; `int8_activations` chooses the options of an exact session. Throws qat::Error with
  /// ONNX Runtime's reason. optimized (optional) receives the bytes of the model as ONNX Runtime optimised it.
  OnnxSession(const OnnxRuntime& runtime, const std::string& bytes, SessionKind kind, bool int8_activations,
              std::string* optimized = nullptr, int threads = 1);

  struct Input {
    std::string name;
    std::vector<int64_t> shape;
    const engine::Value& value;  // NCHW; codes are given as uint8
  };
  struct Output {
    std::vector<int64_t> shape;
    engine::Value value;  // in the order of the runtime: NCHW
  };
  /// The named outputs, which must hold float32, uint8 or int8.
  std::vector<Output> run(const std::vector<Input>& inputs, const std::vector<std::string>& outputs) const;

 private:
  std::shared_ptr<const OrtFunctions> functions_;
  std::shared_ptr<OrtSessionHandle> handle_;
};

/// An exported ONNX file in ONNX Runtime. The model's outputs come from the file as it is (its batch size opened); all
/// other tensors from a copy in which they are outputs too.
class OnnxRuntimeJudge : public Judge {
 public:
  /// `model` is what parse_onnx() gave for `bytes`.
  OnnxRuntimeJudge(const OnnxRuntime& runtime, const std::string& bytes, const integer::IntegerModel& model,
                   SessionKind kind);
  OnnxRuntimeJudge(const OnnxRuntime& runtime, const std::string& bytes, const integer::IntegerModel& model)
      : OnnxRuntimeJudge(runtime, bytes, model, session_of(model)) {}

  const std::string& name() const override {
    static const std::string kName = "onnxruntime";
    return kName;
  }
  void run(const std::vector<engine::Value>& inputs, const engine::Engine::Observer& observe) const override;

  /// Of the model as ONNX Runtime optimised it.
  const std::vector<std::string>& float_nodes() const override { return float_nodes_; }

 private:
  integer::IntegerModel model_;
  std::optional<OnnxSession> file_, all_;
  std::vector<std::string> float_nodes_;
};

/// What the default session does on this machine's CPU: differing codes of all tensors against the engine's.
struct DefaultSession {
  int64_t compared = 0;
  int64_t mismatches = 0;
};
DefaultSession try_default_session(const OnnxRuntime& runtime, const std::string& bytes,
                                   const integer::IntegerModel& model, const std::vector<engine::Value>& inputs);

}  // namespace qat::judges
