"""How is a kernel loaded and called?"""
