#include "core/base/version.h"

#ifndef QAT_GIT_REVISION
#define QAT_GIT_REVISION "unknown"
#endif

namespace qat {

std::string version_string() { return QAT_VERSION " (git " QAT_GIT_REVISION ")"; }

}  // namespace qat
