"""Word lists for the demo's sentences: subjects, predicates, places, times and the word for 'and' in each language.

Written for this package. Subjects are third person singular and predicates include their object, so any combination is grammatical.
"""

# ruff: noqa: E501  # word lists
from __future__ import annotations

from typing import NamedTuple


class Words(NamedTuple):
    subjects: tuple[str, ...]
    predicates: tuple[str, ...]
    places: tuple[str, ...]
    times: tuple[str, ...]
    link: str


def _words(subjects: str, predicates: str, places: str, times: str, link: str) -> Words:
    one, two, three, four = (tuple(item.strip() for item in text.split("|")) for text in (subjects, predicates, places, times))
    return Words(one, two, three, four, link)


WORDS = {
    "en": _words(
        "my sister|the old teacher|our neighbour|a young doctor|the captain|her brother|the baker|that tall stranger|the engineer|a quiet child",
        "buys fresh bread|reads a long letter|repairs the broken clock|sings an old song|waits for the train|paints the garden fence|cooks soup"
        "|counts the stars|forgets the keys|writes three short stories|carries a heavy box|feeds the ducks|measures every window",
        "near the river|in the kitchen|behind the church|at the market|on the island|under the bridge|in a small village|beside the station",
        "every morning|on Thursday|after the rain|before dinner|in the summer|at half past nine|once a year|during the holidays",
        "and",
    ),
    "de": _words(
        "meine Schwester|der alte Lehrer|unser Nachbar|eine junge Ärztin|der Kapitän|ihr Bruder|die Bäckerin|der fremde Mann|das stille Kind",
        "kauft frisches Brot|liest einen langen Brief|repariert die kaputte Uhr|singt ein altes Lied|wartet auf den Zug|kocht eine Suppe"
        "|zählt die Sterne|vergisst die Schlüssel|schreibt drei kurze Geschichten|trägt eine schwere Kiste|füttert die Enten|misst jedes Fenster",
        "am Fluss|in der Küche|hinter der Kirche|auf dem Markt|auf der Insel|unter der Brücke|in einem kleinen Dorf|neben dem Bahnhof",
        "jeden Morgen|am Donnerstag|nach dem Regen|vor dem Abendessen|im Sommer|um halb zehn|einmal im Jahr|während der Ferien",
        "und",
    ),
    "fr": _words(
        "ma sœur|le vieux professeur|notre voisin|une jeune médecin|le capitaine|son frère|la boulangère|cet inconnu|un enfant tranquille",
        "achète du pain frais|lit une longue lettre|répare la pendule cassée|chante une vieille chanson|attend le train|prépare une soupe"
        "|compte les étoiles|oublie les clés|écrit trois petites histoires|porte une lourde caisse|nourrit les canards|mesure chaque fenêtre",
        "près de la rivière|dans la cuisine|derrière l'église|au marché|sur l'île|sous le pont|dans un petit village|à côté de la gare",
        "chaque matin|jeudi|après la pluie|avant le dîner|en été|à neuf heures et demie|une fois par an|pendant les vacances",
        "et",
    ),
    "es": _words(
        "mi hermana|el viejo maestro|nuestro vecino|una joven doctora|el capitán|su hermano|la panadera|aquel desconocido|un niño tranquilo",
        "compra pan fresco|lee una carta larga|arregla el reloj roto|canta una canción antigua|espera el tren|prepara una sopa"
        "|cuenta las estrellas|olvida las llaves|escribe tres cuentos cortos|lleva una caja pesada|alimenta a los patos|mide cada ventana",
        "cerca del río|en la cocina|detrás de la iglesia|en el mercado|en la isla|debajo del puente|en un pueblo pequeño|junto a la estación",
        "cada mañana|el jueves|después de la lluvia|antes de la cena|en verano|a las nueve y media|una vez al año|durante las vacaciones",
        "y",
    ),
    "it": _words(
        "mia sorella|il vecchio maestro|il nostro vicino|una giovane dottoressa|il capitano|suo fratello|la fornaia|quel forestiero",
        "compra il pane fresco|legge una lunga lettera|ripara l'orologio rotto|canta una vecchia canzone|aspetta il treno|prepara la zuppa"
        "|conta le stelle|dimentica le chiavi|scrive tre brevi racconti|porta una cassa pesante|nutre le anatre|misura ogni finestra",
        "vicino al fiume|in cucina|dietro la chiesa|al mercato|sull'isola|sotto il ponte|in un piccolo paese|accanto alla stazione",
        "ogni mattina|giovedì|dopo la pioggia|prima di cena|in estate|alle nove e mezza|una volta all'anno|durante le vacanze",
        "e",
    ),
    "pt": _words(
        "minha irmã|o velho professor|o nosso vizinho|uma jovem médica|o capitão|o irmão dela|a padeira|aquele estranho|uma criança calma",
        "compra pão fresco|lê uma carta longa|conserta o relógio partido|canta uma canção antiga|espera o comboio|prepara uma sopa"
        "|conta as estrelas|esquece as chaves|escreve três histórias curtas|leva uma caixa pesada|alimenta os patos|mede cada janela",
        "perto do rio|na cozinha|atrás da igreja|no mercado|na ilha|debaixo da ponte|numa pequena aldeia|ao lado da estação",
        "todas as manhãs|na quinta-feira|depois da chuva|antes do jantar|no verão|às nove e meia|uma vez por ano|durante as férias",
        "e",
    ),
    "pl": _words(
        "moja siostra|stary nauczyciel|nasz sąsiad|młoda lekarka|kapitan|jej brat|piekarz|tamten nieznajomy|spokojne dziecko",
        "kupuje świeży chleb|czyta długi list|naprawia zepsuty zegar|śpiewa starą piosenkę|czeka na pociąg|gotuje zupę"
        "|liczy gwiazdy|zapomina kluczy|pisze trzy krótkie opowiadania|niesie ciężką skrzynię|karmi kaczki|mierzy każde okno",
        "nad rzeką|w kuchni|za kościołem|na targu|na wyspie|pod mostem|w małej wsi|obok dworca",
        "każdego ranka|w czwartek|po deszczu|przed kolacją|w lecie|o wpół do dziesiątej|raz w roku|podczas wakacji",
        "i",
    ),
    "tr": _words(
        "kız kardeşim|yaşlı öğretmen|komşumuz|genç bir doktor|kaptan|onun ağabeyi|fırıncı|o yabancı|sessiz bir çocuk",
        "taze ekmek alıyor|uzun bir mektup okuyor|bozuk saati onarıyor|eski bir şarkı söylüyor|treni bekliyor|çorba pişiriyor"
        "|yıldızları sayıyor|anahtarları unutuyor|üç kısa öykü yazıyor|ağır bir kutu taşıyor|ördekleri besliyor|her pencereyi ölçüyor",
        "nehrin yanında|mutfakta|caminin arkasında|pazarda|adada|köprünün altında|küçük bir köyde|istasyonun yanında",
        "her sabah|perşembe günü|yağmurdan sonra|akşam yemeğinden önce|yazın|saat dokuz buçukta|yılda bir kez|tatilde",
        "ve",
    ),
    "sw": _words(
        "dada yangu|mwalimu mzee|jirani yetu|daktari kijana|nahodha|kaka yake|mwokaji|mgeni yule|mtoto mtulivu",
        "ananunua mkate mpya|anasoma barua ndefu|anatengeneza saa iliyoharibika|anaimba wimbo wa zamani|anasubiri treni|anapika supu"
        "|anahesabu nyota|anasahau funguo|anaandika hadithi tatu fupi|anabeba sanduku zito|analisha bata|anapima kila dirisha",
        "karibu na mto|jikoni|nyuma ya kanisa|sokoni|kisiwani|chini ya daraja|katika kijiji kidogo|kando ya kituo",
        "kila asubuhi|siku ya Alhamisi|baada ya mvua|kabla ya chakula|wakati wa kiangazi|saa tatu na nusu|mara moja kwa mwaka|wakati wa likizo",
        "na",
    ),
    "hi": _words(
        "मेरी बहन|बूढ़ी अध्यापिका|हमारी पड़ोसन|एक युवा डॉक्टर|उसकी भाभी|वह अनजान औरत|एक शांत लड़की|मेरी मौसी",
        "ताज़ी रोटी खरीदती है|लंबी चिट्ठी पढ़ती है|टूटी घड़ी ठीक करती है|पुराना गीत गाती है|रेलगाड़ी का इंतज़ार करती है|दाल पकाती है"
        "|तारे गिनती है|चाबियाँ भूल जाती है|तीन छोटी कहानियाँ लिखती है|भारी डिब्बा उठाती है|बत्तखों को खिलाती है|हर खिड़की नापती है",
        "नदी के पास|रसोई में|मंदिर के पीछे|बाज़ार में|द्वीप पर|पुल के नीचे|एक छोटे गाँव में|स्टेशन के पास",
        "हर सुबह|गुरुवार को|बारिश के बाद|खाने से पहले|गर्मियों में|साढ़े नौ बजे|साल में एक बार|छुट्टियों में",
        "और",
    ),
}
