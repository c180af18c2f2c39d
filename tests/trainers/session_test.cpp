#include "trainers/session.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full_like.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/io/weights.h"

namespace qat::trainers {
namespace {

/// An untrained network; `model` is the config's section without braces.
Session make_session(const std::string& model) {
  return Session(make_experiment(
      config::load_text("data: {dataset: {name: synthetic, num_classes: 4, train_samples: 8, eval_samples: 8}}\n"
                        "stages: [float]\nmodel: {in_channels: 1, " +
                            model + "}\n",
                        "session.yaml", {})
          .root()));
}

std::string file_of(const io::TensorMap& state, const std::string& name) {
  const std::string path = testing::TempDir() + "/qat_session_" + name;
  io::write_weights(path, state);
  return path;
}

std::string misfit(Session& session, const WeightsConfig& weights) {
  try {
    load_weights(session.model, session.experiment.model, weights);
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "no CheckpointError";
}

TEST(LoadWeights, AnotherClassCountIsRefusedUnlessTheClassifierIsSkipped) {
  const Session other = make_session("name: resnet20, width: 4, num_classes: 7");
  for (const char* name : {"classes.pth", "classes.safetensors"}) {
    SCOPED_TRACE(name);
    const std::string path = file_of(other.state(), name);
    Session session = make_session("name: resnet20, width: 4, num_classes: 4");
    const io::TensorMap state = session.state();
    const at::Tensor fc = state.at("fc.weight").clone(), conv = state.at("conv1.weight").clone();
    EXPECT_EQ(misfit(session, {path}),
              path +
                  ": does not fit the network: 2 mismatched: fc.bias expected [4] F32, found [7] F32, fc.weight "
                  "expected [4, 16] F32, found [7, 16] F32");
    EXPECT_TRUE(at::equal(state.at("conv1.weight"), conv));
    load_weights(session.model, session.experiment.model, {path, true});
    EXPECT_TRUE(at::equal(state.at("fc.weight"), fc));
    for (const auto& [key, tensor] : other.state()) {
      if (key.starts_with("fc.")) continue;
      EXPECT_TRUE(at::equal(state.at(key), tensor)) << key;
    }
  }
}

TEST(LoadWeights, SkippingTheClassifierForgivesNothingElse) {
  const Session other = make_session("name: resnet20, width: 4, num_classes: 7");
  io::TensorMap tensors = other.state();
  tensors.erase("layer1.0.bn1.running_mean");
  tensors.erase("fc.bias");  // nor need it be there
  tensors["head.weight"] = tensors.at("fc.weight");
  const std::string path = file_of(tensors, "broken.pth");
  Session session = make_session("name: resnet20, width: 4, num_classes: 4");
  EXPECT_EQ(misfit(session, {path, true}), path +
                                               ": does not fit the network: 1 missing: layer1.0.bn1.running_mean; "
                                               "1 unexpected: head.weight");
}

TEST(LoadWeights, OldFilesHaveNoBatchCounters) {
  Session session = make_session("name: resnet20, width: 4");
  const io::TensorMap state = session.state();
  io::TensorMap tensors;
  for (const auto& [key, tensor] : state) {
    if (!key.ends_with("num_batches_tracked")) tensors[key] = at::full_like(tensor, 2);
  }
  load_weights(session.model, session.experiment.model, {file_of(tensors, "old.pth")});
  EXPECT_EQ(state.at("bn1.running_var")[0].item<float>(), 2.0f);
  EXPECT_EQ(state.at("bn1.num_batches_tracked").item<int64_t>(), 0);
}

}  // namespace
}  // namespace qat::trainers
