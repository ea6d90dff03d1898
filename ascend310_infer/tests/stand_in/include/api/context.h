#include "include/api/model.h"  // the whole stand-in
