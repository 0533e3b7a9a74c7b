"""How is a law tried?"""
