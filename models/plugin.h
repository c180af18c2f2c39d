// For plug-ins with networks of their own (see CONTRIBUTING.md, "Plug-ins").
#pragma once

#include <memory>

#include "core/registry/plugin.h"
#include "models/model.h"

namespace qat::models {

/// The options of a network: Net::Options, or num_classes and in_channels.
template <class Net>
struct OptionsOf {
  using Type = ClassifierOptions;
};
template <class Net>
requires requires { typename Net::Options; }
struct OptionsOf<Net> {
  using Type = typename Net::Options;
};

/// What QAT_REGISTER_MODEL notes.
template <class Net>
void add_network(const char* name, const char* description) {
  using Options = typename OptionsOf<Net>::Type;
  add_model<Options>(registry(), name, description,
                     [](const Options& options) { return std::make_shared<Net>(options); });
}

}  // namespace qat::models

/// In a .cpp file of a plug-in: makes a torch::nn::Module known by a name. The class has a constructor that takes its
/// options (ClassifierOptions, or the class's own struct `Options` with a config::Schema) and
/// `at::Tensor forward(at::Tensor)` from images [N, C, H, W] to logits [N, num_classes].
#define QAT_REGISTER_MODEL(name, description, Net) QAT_PLUGIN_ENTRY(name, description, ::qat::models::add_network<Net>)
