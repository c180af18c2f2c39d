// For plug-ins with quantization methods of their own (see CONTRIBUTING.md, "Plug-ins").
#pragma once

#include <memory>

#include "core/quant/quantizer.h"
#include "core/registry/plugin.h"

namespace qat::quant {

/// What QAT_REGISTER_QUANTIZER notes.
template <class Method>
void add_quantizer(const char* name, const char* description) {
  quantizers().add(
      name, description, +[](const QuantSpec& spec, const QuantizerOptions& options) -> std::shared_ptr<Quantizer> {
        return std::make_shared<Method>(spec, options);
      });
}

}  // namespace qat::quant

/// In a .cpp file of a plug-in: makes a class derived from quant::Quantizer, with a constructor that takes
/// (const QuantSpec&, const QuantizerOptions&), known by a name.
#define QAT_REGISTER_QUANTIZER(name, description, Method) \
  QAT_PLUGIN_ENTRY(name, description, ::qat::quant::add_quantizer<Method>)
