// Which vector instructions the kernels use: by default the best that the machine has.
#pragma once

#include <string>

namespace qat::ops {

/// Limits kernels to AVX2 ("avx2") or to AVX-512 without VNNI ("avx512"), or gives the machine's best back (""). Called
/// before kernels run on other threads. Throws UsageError for another name, or one that the machine lacks.
void limit_vector_target(const std::string& name);

/// "AVX3_DL": what kernels run on now.
std::string vector_target();

}  // namespace qat::ops
