// A judge computes an exported file with a runtime and gives every tensor of it.
#pragma once

#include <string>
#include <vector>

#include "core/engine/engine.h"

namespace qat::judges {

/// What a judge's values of a node are worth, and why.
struct Standing {
  enum class Kind {
    kExact,     // all must be equal
    kNearest,   // where another code is as near to the real value, that is as good: ties are rounded otherwise
    kAdvisory,  // differences are reported and are no failure
    kLeftOut,   // not computed
  };
  Kind kind = Kind::kExact;
  std::string reason = {};
};

class Judge {
 public:
  virtual ~Judge() = default;

  /// "engine", "onnxruntime", "opencv".
  virtual const std::string& name() const = 0;

  /// The nodes that the runtime computes in float: "conv1 (Conv)". Empty when all of the network is integers.
  virtual const std::vector<std::string>& float_nodes() const {
    static const std::vector<std::string> kNone;
    return kNone;
  }

  virtual Standing standing(const integer::Node&) const { return {}; }

  /// Runs a batch (one NHWC value for each input of the model) and calls `observe` with the index and value (NHWC) of
  /// each tensor that the runtime made. Throws qat::Error.
  virtual void run(const std::vector<engine::Value>& inputs, const engine::Engine::Observer& observe) const = 0;
};

/// Our own engine on the model that was read back from the file.
class EngineJudge : public Judge {
 public:
  explicit EngineJudge(const integer::IntegerModel& model) : engine_(model) {}

  const std::string& name() const override {
    static const std::string kName = "engine";
    return kName;
  }
  void run(const std::vector<engine::Value>& inputs, const engine::Engine::Observer& observe) const override {
    engine_.run(inputs, observe);
  }

 private:
  engine::Engine engine_;
};

}  // namespace qat::judges
