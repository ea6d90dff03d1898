"""V-Net on MindSpore."""

import os

# MindSpore's warnings speak of its own insides ("side effect nodes were eliminated by mistake") and frighten people for
# nothing; its errors stay. GLOG_v has to be set before it is imported first. GLOG_v=2 in the environment shows them.
os.environ.setdefault("GLOG_v", "3")
