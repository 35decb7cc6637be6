"""report placeholder"""
