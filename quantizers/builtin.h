// The methods and observers that come with qat: one line each in builtin.cpp.
#pragma once

namespace qat::quantizers {

/// Fills quant::quantizers() and quant::observers(). Call once before they are used; further calls do nothing.
void register_builtin();

}  // namespace qat::quantizers
