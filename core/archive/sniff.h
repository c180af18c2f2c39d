// Files that are mistaken for weights, recognised by their first bytes.
#pragma once

#include <string_view>

namespace qat::archive {

/// Throws Error that says what the bytes look like, when they are empty, a web page, a Git LFS pointer, a gzip, a tar
/// file, or text.
void refuse_other_formats(std::string_view bytes);

}  // namespace qat::archive
