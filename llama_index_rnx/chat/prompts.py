"""The instructions of a language model that reads the sources. They know no engine and no model."""

from __future__ import annotations

from llama_index.core.prompts import RichPromptTemplate

CONTEXT_PROMPT = """You answer questions about the user's documents. \
These are the sources that were found, with their numbers:

{context_str}

Answer from these sources only, shortly, \
and give the number of the source after each statement, like this: [1]. \
If they do not hold the answer, say so.
"""

REFINE_PROMPT = """You answer questions about the user's documents. Here are further sources:

{context_msg}

This is the answer so far:
{existing_answer}

Improve it if these sources help, with their numbers like this: [1]; otherwise repeat it.
"""

PAGES_PROMPT = RichPromptTemplate(
    """{% chat role="system" %}
You answer questions about the user's documents from the sources that follow, \
texts and pictures, each with its number. \
Answer from these sources only, shortly, \
and give the number of the source after each statement, like this: [1]. \
If they do not hold the answer, say so.
{% endchat %}
{% chat role="user" %}
{% for message in context_messages %}{% for block in message.blocks %}
{% if block.block_type == 'text' %}{{ block.text }}{% endif %}
{% if block.block_type == 'image' %}{{ block.inline_url() | image }}{% endif %}
{% endfor %}{% endfor %}
{% if history %}The conversation so far:
{{ history }}
{% endif %}
Question: {{ query_str }}
{% endchat %}
"""
)
