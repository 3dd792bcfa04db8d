"""The console commands. Their modules import little, so that help and wrong flags are answered at
once; what does the work is imported when it begins.
"""
